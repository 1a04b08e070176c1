//! What a broker's answers mean, and what to do about them.
//!
//! The reason code of a PUBACK decides, not the client's "ok" (MQTT 5, 3.4.2.1):
//!
//! | code | | becomes |
//! | --- | --- | --- |
//! | 0x00 | success | taken |
//! | 0x10 | no matching subscribers | taken; counted and told, since nobody heard it |
//! | 0x80 0x83 | unspecified, implementation specific | held: the same message may pass later |
//! | 0x87 | not authorized | held until the access rules are put right |
//! | 0x90 | topic name invalid | held: it is of every message, and a broker's rule |
//! | 0x91 | packet identifier in use | held: the next connection begins anew |
//! | 0x95 | packet too large | is no code of a PUBACK, but some send it: as if the broker had closed over it, so that smaller ones are sent |
//! | 0x97 | quota exceeded | held until there is room |
//! | 0x99 | payload format invalid | left out, and told as a gap |
//!
//! What is held ends the connection, and is sent again from the cursor after a wait.

use std::{error::Error, io};

use rumqttc::{
    ConnectionError, PublishNotice, PublishResult, StateError,
    mqttbytes::{
        Error as MqttError,
        v5::{ConnectReturnCode, DisconnectReasonCode, PubAckReason},
    },
    tokio_rustls::rustls::{self, AlertDescription, CertificateError},
};

use crate::uplink::{Answer, Closed};

const PACKET_TOO_LARGE: u8 = DisconnectReasonCode::PacketTooLarge as u8;
const SESSION_TAKEN_OVER: u8 = DisconnectReasonCode::SessionTakenOver as u8;

/// What became of a publish.
pub async fn answer(notice: PublishNotice) -> Answer {
    match notice.wait_async().await {
        Ok(PublishResult::Qos1(ack)) => of_reason(ack.reason),
        _ => Answer::Lost,
    }
}

fn of_reason(reason: PubAckReason) -> Answer {
    let what_to_do = match reason {
        PubAckReason::Success => return Answer::Taken { heard: true },
        PubAckReason::NoMatchingSubscribers => return Answer::Taken { heard: false },
        PubAckReason::PayloadFormatInvalid => {
            return Answer::RefusedForGood(format!("{reason:?}"));
        }
        PubAckReason::NotAuthorized => "check its access rules for this node's user",
        PubAckReason::QuotaExceeded => "this node's quota there is used up: raise it, or wait",
        PubAckReason::TopicNameInvalid => "it must take topics purlin/v1/FLEET/NODE/…",
        PubAckReason::PacketIdentifierInUse => "it is sent again over a new connection",
        PubAckReason::UnspecifiedError | PubAckReason::ImplementationSpecificError => {
            "the broker's own log says more"
        }
    };
    Answer::RefusedForNow(format!("{reason:?} (0x{:02x}); {what_to_do}", reason as u8))
}

/// Why a connection ended.
pub fn closed(error: &ConnectionError) -> Closed {
    // It reads the reason of some DISCONNECTs as a CONNACK's.
    let reason = match error {
        ConnectionError::MqttState(StateError::Deserialization(
            MqttError::InvalidConnectReturnCode(reason),
        )) => *reason,
        _ => 0,
    };
    let (too_large, taken_over) = (reason == PACKET_TOO_LARGE, reason == SESSION_TAKEN_OVER);
    let why = match (too_large, taken_over) {
        (true, _) => "the broker refused a publish: it is too large for it (0x95)".into(),
        (_, true) => "another client with this node's client id has connected (0x8e)".into(),
        _ => explain(error),
    };
    Closed { why, too_large, taken_over }
}

/// Why a connection could not be made or ended, and what to do.
pub fn explain(error: &ConnectionError) -> String {
    // What it could not read from is none of its sources either.
    let cause: &(dyn Error + 'static) = match error {
        ConnectionError::MqttState(StateError::Deserialization(cause)) => cause,
        other => other,
    };
    if let Some(error) = tls_error(cause) {
        return format!("TLS: {error}{}", about_tls(error));
    }
    match error {
        ConnectionError::ConnectionRefused(
            code @ (ConnectReturnCode::BadUserNamePassword | ConnectReturnCode::NotAuthorized),
        ) => format!(
            "the broker refused us: {code:?}; check uplink.username and uplink.password_file, or \
             who uplink.client_certificate says we are"
        ),
        ConnectionError::ConnectionRefused(code) => format!("the broker refused us: {code:?}"),
        ConnectionError::Proxy(error) => about_proxy(&error.to_string()),
        other => other.to_string(),
    }
}

/// What TLS has to say, wherever in the error it stands. An `io::Error` doesn't count
/// what it was made of among its sources.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    if let Some(found) = error.downcast_ref() {
        return Some(found);
    }
    let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
    match inner {
        Some(inner) => tls_error(inner),
        None => tls_error(error.source()?),
    }
}

fn about_tls(error: &rustls::Error) -> &'static str {
    use AlertDescription as Alert;
    use CertificateError as Bad;
    match error {
        rustls::Error::InvalidCertificate(bad) => match bad {
            Bad::UnknownIssuer => {
                "; the broker's certificate is of no authority in uplink.trust_anchors: add its CA"
            }
            Bad::Expired | Bad::ExpiredContext { .. } => {
                "; the broker's certificate has expired by this node's clock: renew it there, or \
                 set the clock"
            }
            Bad::NotValidYet | Bad::NotValidYetContext { .. } => {
                "; by this node's clock the broker's certificate is not valid yet: set the clock"
            }
            Bad::NotValidForName | Bad::NotValidForNameContext { .. } => {
                "; uplink.endpoint must name the broker as its certificate does"
            }
            _ => "; it is the broker's certificate that is wrong",
        },
        rustls::Error::AlertReceived(alert) => match alert {
            Alert::CertificateRequired | Alert::HandshakeFailure => {
                "; the broker wants a certificate of ours: set uplink.client_certificate and \
                 uplink.client_key"
            }
            Alert::CertificateExpired => {
                "; our certificate has expired: renew the file uplink.client_certificate, which is \
                 read anew at each attempt"
            }
            // The last one is what OpenSSL says of an authority of the same name.
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::DecryptError => {
                "; the broker doesn't trust our certificate: uplink.client_certificate must be of \
                 an authority that it knows"
            }
            Alert::CertificateRevoked => "; our certificate was revoked: get a new one",
            Alert::ProtocolVersion => "; the broker must speak TLS 1.3",
            _ => "; the broker's own log says more",
        },
        _ => "",
    }
}

fn about_proxy(error: &str) -> String {
    let what_to_do = match error {
        it if it.contains("407") => {
            "it wants to know who we are: set uplink.proxy_username and uplink.proxy_password_file"
        }
        it if it.contains("403") => "it doesn't let us connect to the broker's host and port",
        it if it.contains("502") || it.contains("503") || it.contains("504") => {
            "it can't reach the broker"
        }
        _ => "check uplink.proxy",
    };
    format!("the proxy: {error}; {what_to_do}")
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn each_reason_is_taken_held_or_left_out() {
        let codes = [0u8, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
        let table: String = codes
            .iter()
            .map(|&code| {
                let reason = PubAckReason::try_from(code).expect("a code of a PUBACK");
                format!("{code:02x} {:?}\n", of_reason(reason))
            })
            .collect();
        expect![[r#"
            00 Taken { heard: true }
            10 Taken { heard: false }
            80 RefusedForNow("UnspecifiedError (0x80); the broker's own log says more")
            83 RefusedForNow("ImplementationSpecificError (0x83); the broker's own log says more")
            87 RefusedForNow("NotAuthorized (0x87); check its access rules for this node's user")
            90 RefusedForNow("TopicNameInvalid (0x90); it must take topics purlin/v1/FLEET/NODE/…")
            91 RefusedForNow("PacketIdentifierInUse (0x91); it is sent again over a new connection")
            97 RefusedForNow("QuotaExceeded (0x97); this node's quota there is used up: raise it, or wait")
            99 RefusedForGood("PayloadFormatInvalid")
        "#]]
        .assert_eq(&table);
    }
}
