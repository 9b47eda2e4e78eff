//! gRPC calls and bytes in one direction: the program rpc_bench on both sides.

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::stage::{Stage, ours};
use crate::bench::cell::{PATIENCE, Side};
use crate::bench::contenders::Contender;
use crate::run::{describe, wait_until};

pub(super) fn unary(stage: &Stage<'_>, contender: &Contender, outstanding: u32, millis: u64) -> Result<Value> {
    measure(stage, contender, "unary", &["--outstanding", &outstanding.to_string(), "--size", "1024"], millis)
}

pub(super) fn bulk(stage: &Stage<'_>, contender: &Contender, millis: u64) -> Result<Value> {
    measure(stage, contender, "bulk", &["--size", "65536"], millis)
}

fn measure(stage: &Stage<'_>, contender: &Contender, work: &str, load: &[&str], millis: u64) -> Result<Value> {
    let program = ours("rpc_bench");
    let scheme = contender.scheme;
    let mut server = stage.command(Side::Server, &program);
    server.args(["server", work, &format!("{scheme}://{}:0", stage.server_ip())]).args(contender.options);
    let mut server = stage.start(&mut server, "server")?;
    let mut at = None;
    wait_until(PATIENCE, || {
        let text = stage.read("server.log");
        at = text.split_once('\n').and_then(|(line, _)| line.strip_prefix("listening on ")).map(str::to_owned);
        Ok(at.is_some() || server.ended()?.is_some())
    })?;
    let Some(at) = at else { bail!("the server does not listen: {}", stage.read("server.err").trim()) };
    let mut client = stage.command(Side::Client, &program);
    client.args(["client", work, &format!("{scheme}://{at}"), "--millis", &millis.to_string()]);
    client.args(load).args(contender.options);
    let said = stage.run(&mut client, "client")?;
    let command = describe(&client);
    let mut report: Value = serde_json::from_str(&said).with_context(|| format!("what `{command}` reports"))?;
    report["command"] = command.into();
    Ok(report)
}
