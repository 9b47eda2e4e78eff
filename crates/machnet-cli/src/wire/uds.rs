//! `uds://`: tokio's UnixStream, at a path.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::framed::{Calm, FramedRx, FramedTx, framed};
use super::{Link, Listener, Wire};

pub(crate) struct Uds {
    path: PathBuf,
}

impl Uds {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }
}

fn link(stream: UnixStream) -> Link<Uds> {
    let (read, write) = stream.into_split();
    framed(read, write)
}

impl Calm for OwnedReadHalf {}

impl Wire for Uds {
    type Message = Bytes;
    type Tx = FramedTx<OwnedWriteHalf>;
    type Rx = FramedRx<OwnedReadHalf>;
    type Listener = UdsListening;

    async fn listen(&self) -> io::Result<UdsListening> {
        let listener = UnixListener::bind(&self.path)?;
        Ok(UdsListening { listener, path: self.path.clone() })
    }

    async fn connect(&self) -> io::Result<Link<Self>> {
        Ok(link(UnixStream::connect(&self.path).await?))
    }
}

/// Takes its file away when dropped.
pub(crate) struct UdsListening {
    listener: UnixListener,
    path: PathBuf,
}

impl Listener<Uds> for UdsListening {
    fn url(&self) -> String {
        format!("uds://{}", self.path.display())
    }

    async fn accept(&mut self) -> io::Result<Link<Uds>> {
        Ok(link(self.listener.accept().await?.0))
    }
}

impl Drop for UdsListening {
    fn drop(&mut self) {
        // Gone already, if somebody else removed it.
        let _ = std::fs::remove_file(&self.path);
    }
}
