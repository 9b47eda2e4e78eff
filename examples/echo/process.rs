//! The server as a process of its own: this program again, which tells its addresses on its standard output.

use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdout, Command, Stdio};

/// The server's process; killed if the client fails.
pub(crate) struct Server {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Server {
    /// Starts this program once more, with the same arguments.
    pub(crate) fn start() -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).arg("--serve").stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("the server has no output"))?;
        Ok(Self { child, output: BufReader::new(output) })
    }

    /// Waits for the addresses of machnet and TCP.
    pub(crate) fn addresses(&mut self) -> io::Result<(SocketAddr, SocketAddr)> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        let mut words = line.split_whitespace().map(|word| word.parse().map_err(io::Error::other));
        let mut next = || words.next().unwrap_or_else(|| Err(io::Error::other("the server did not start")));
        Ok((next()?, next()?))
    }

    /// Waits for its end, which comes when the client is done.
    pub(crate) fn wait(mut self) -> io::Result<()> {
        let status = self.child.wait()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("server: {status}"))) }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing if it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What the server's process says.
pub(crate) fn tell(machnet: SocketAddr, tcp: SocketAddr) -> io::Result<()> {
    let mut output = io::stdout();
    writeln!(output, "{machnet} {tcp}")?;
    output.flush()
}
