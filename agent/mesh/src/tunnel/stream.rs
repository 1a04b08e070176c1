//! A way to an endpoint, or from a client: a socket, or a stream in a tunnel.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use h2::{RecvStream, SendStream};
use hyper::body::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A way that bytes go.
#[derive(Debug)]
pub enum Stream {
    /// A socket.
    Tcp(TcpStream),
    /// A stream in a tunnel.
    Tunnelled(Box<Tunnelled>),
}

/// A stream in a tunnel.
#[derive(Debug)]
pub struct Tunnelled {
    send: SendStream<Bytes>,
    receive: RecvStream,
    /// Of what came last.
    unread: Bytes,
    is_shut: bool,
}

impl Stream {
    /// Both halves of a stream that was agreed on.
    pub fn tunnelled(send: SendStream<Bytes>, receive: RecvStream) -> Self {
        let unread = Bytes::new();
        Stream::Tunnelled(Box::new(Tunnelled { send, receive, unread, is_shut: false }))
    }

    /// The bare socket, if it is one.
    pub fn into_socket(self) -> Option<std::net::TcpStream> {
        match self {
            Stream::Tcp(socket) => socket.into_std().ok(),
            Stream::Tunnelled(_) => None,
        }
    }

    /// The socket, if it is one.
    pub fn socket(&self) -> Option<&TcpStream> {
        match self {
            Stream::Tcp(socket) => Some(socket),
            Stream::Tunnelled(_) => None,
        }
    }
}

/// What HTTP/2 says, as a socket would say it.
pub fn io_error(error: h2::Error) -> io::Error {
    match error.is_io() {
        true => error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()),
        false => io::Error::new(io::ErrorKind::ConnectionReset, error),
    }
}

impl AsyncRead for Tunnelled {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.unread.is_empty() {
            match ready!(self.receive.poll_data(cx)) {
                None => return Poll::Ready(Ok(())),
                Some(bytes) => self.unread = bytes.map_err(io_error)?,
            }
        }
        let taken = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.split_to(taken));
        // Only what is taken makes room for more: nothing is heaped up here.
        let released = self.receive.flow_control().release_capacity(taken);
        Poll::Ready(released.map_err(io_error))
    }
}

impl AsyncWrite for Tunnelled {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if buf.is_empty() {
            return Poll::Ready(Ok(0));
        }
        self.send.reserve_capacity(buf.len());
        while self.send.capacity() == 0 {
            match ready!(self.send.poll_capacity(cx)) {
                None => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
                Some(granted) => _ = granted.map_err(io_error)?,
            }
        }
        let sent = self.send.capacity().min(buf.len());
        let bytes = Bytes::copy_from_slice(&buf[..sent]);
        Poll::Ready(self.send.send_data(bytes, false).map(|()| sent).map_err(io_error))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut {
            self.is_shut = true;
            // The other end may have gone already.
            _ = self.send.send_data(Bytes::new(), true);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(it) => Pin::new(it).poll_read(cx, buf),
            Stream::Tunnelled(it) => Pin::new(it).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(it) => Pin::new(it).poll_write(cx, buf),
            Stream::Tunnelled(it) => Pin::new(it).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Tcp(it) => Pin::new(it).poll_write_vectored(cx, bufs),
            Stream::Tunnelled(it) => Pin::new(it).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.socket().is_some()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(it) => Pin::new(it).poll_flush(cx),
            Stream::Tunnelled(it) => Pin::new(it).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Tcp(it) => Pin::new(it).poll_shutdown(cx),
            Stream::Tunnelled(it) => Pin::new(it).poll_shutdown(cx),
        }
    }
}
