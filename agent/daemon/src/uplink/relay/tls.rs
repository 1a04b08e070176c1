//! Certificates of the rack on both ends. Files are read anew at each connection, so that
//! a renewed one is taken up without a restart.

use std::sync::Arc;

use rumqttc::tokio_rustls::{
    TlsAcceptor, TlsConnector, client,
    rustls::{
        RootCertStore, ServerConfig,
        client::verify_server_name,
        pki_types::ServerName,
        server::{ParsedCertificate, WebPkiClientVerifier},
    },
    server,
};
use tokio::net::TcpStream;

use super::{Config, Peer};
use crate::{clock::Floor, uplink::tls};

/// Our end, of a connection to `peer`, which is known to be it.
pub async fn connect(
    config: &Config,
    floor: &Floor,
    peer: &Peer,
) -> Result<client::TlsStream<TcpStream>, String> {
    let (identity, roots) = files(config)?;
    let tls = tls::certified(identity)
        .and_then(|identity| tls::client(roots, Some(identity), floor))
        .map_err(|error| format!("relay.certificate and relay.key: {error}"))?;
    let name = name_of(&peer.node)?;
    let stream = TcpStream::connect(&peer.address).await.map_err(|error| error.to_string())?;
    // Small words both ways: none waits for the next.
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let connected = TlsConnector::from(Arc::new(tls)).connect(name, stream).await;
    connected
        .map_err(|error| format!("TLS: {error}; is its certificate of the rack, for its node id?"))
}

/// The other end, of a connection from somebody who has a certificate of the rack.
pub async fn accept(
    config: &Config,
    floor: &Floor,
    stream: TcpStream,
) -> Result<server::TlsStream<TcpStream>, String> {
    let ((chain, key), roots) = files(config)?;
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots.into(), tls::provider()).build();
    let tls = ServerConfig::builder_with_details(tls::provider(), Arc::new(floor.clone()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(verifier.map_err(|error| error.to_string())?)
        .with_single_cert(chain, key)
        .map_err(|error| format!("relay.certificate and relay.key: {error}"))?;
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let accepted = TlsAcceptor::from(Arc::new(tls)).accept(stream).await;
    accepted.map_err(|error| format!("TLS: {error}"))
}

/// Fails unless who connected has a certificate that is good for this node id.
pub fn is_node(stream: &server::TlsStream<TcpStream>, node: &str) -> Result<(), String> {
    let certificates = stream.get_ref().1.peer_certificates();
    let leaf = certificates.and_then(|it| it.first()).ok_or("no certificate")?;
    let certificate = ParsedCertificate::try_from(leaf).map_err(|error| error.to_string())?;
    verify_server_name(&certificate, &name_of(node)?).map_err(|_| {
        format!("the certificate is not one of node {node}: it must be good for that name")
    })
}

fn name_of(node: &str) -> Result<ServerName<'static>, String> {
    let name = ServerName::try_from(node.to_owned());
    name.map_err(|_| format!("node id {node} can't stand in a certificate: it is no DNS name"))
}

fn files(config: &Config) -> Result<(tls::Identity, RootCertStore), String> {
    let chain = tls::certificates("relay.certificate", &config.certificate)?;
    let key = tls::key("relay.key", &config.key)?;
    Ok(((chain, key), tls::roots("relay.trust_anchors", &config.trust_anchors)?))
}
