//! Bodies that pass frame by frame and can be cut.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use hyper::body::{Body, Frame, Incoming, SizeHint};

/// When a body ends before its time.
pub(super) enum Cutting {
    /// Never.
    Never,
    /// After so many more bytes.
    After(u64),
    /// When this resolves.
    When(BoxFuture<'static, ()>),
}

/// The engine's body.
pub(super) struct Passing {
    inner: Incoming,
    cutting: Cutting,
    /// Whether what came before the cut had its chance to be sent.
    flushed: bool,
}

impl Passing {
    pub(super) fn new(inner: Incoming, cutting: Cutting) -> Self {
        Self { inner, cutting, flushed: false }
    }
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "cut by the proxy")
}

impl Body for Passing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if let Cutting::When(released) = &mut self.cutting
            && released.as_mut().poll(cx).is_ready()
        {
            self.cutting = Cutting::After(0);
        }
        if matches!(self.cutting, Cutting::After(0)) {
            // The server writes out what it has when there is nothing more for the moment, and drops it at an error.
            if !self.flushed {
                self.flushed = true;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            return Poll::Ready(Some(Err(cut())));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else { return Poll::Pending };
        let Some(frame) = frame else { return Poll::Ready(None) };
        let mut frame = frame.map_err(io::Error::other);
        if let (Cutting::After(left), Ok(some)) = (&mut self.cutting, &mut frame)
            && let Some(data) = some.data_mut()
        {
            let room = usize::try_from(*left).unwrap_or(usize::MAX).min(data.len());
            data.truncate(room);
            *left -= room as u64;
        }
        Poll::Ready(Some(frame))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.cutting, Cutting::Never) && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
