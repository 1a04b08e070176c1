//! Modbus, without a port: what is asked, how it looks on a line, and what may be
//! believed of what comes back.
//!
//! | module | what it decides |
//! | --- | --- |
//! | [`pdu`] | requests, their answers, exceptions |
//! | [`rtu`] | frames on a serial line, and whether what was heard is the answer |
//! | [`guard`] | whether an answer may still be on its way to a question given up on |
//! | [`tcp`] | the same requests with a transaction's number, for gateways |
//!
//! Sources: *MODBUS Application Protocol V1.1b3* and *MODBUS over Serial Line V1.02*
//! (modbus.org), quoted as "AP" and "SL".
//!
//! Invariant: an RTU answer has nothing that ties it to its question, so an answer
//! that comes too late looks like the answer to the next. Whoever asks goes through
//! the [`guard::Guard`] of that unit, or reports readings that are wrong.

pub mod guard;
pub mod pdu;
pub mod rtu;
pub mod tcp;
