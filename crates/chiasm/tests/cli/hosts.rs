//! Ranks on two hosts: two network namespaces of the test's own, joined by a cable that can be cut, and disks that
//! can be filled. Needs what [`mpirun`] needs and Linux's `unshare`, `nsenter` and `ip`; no rights, and leaves nothing.

use std::path::Path;
use std::process::Command;

use crate::common::{succeed, workspace};
use crate::ranks::{BINARY, mpirun, recipe, same_losses, saved};

/// Makes the second host and the cable between the two; `mpirun` starts ranks there by `agent`.
const HOSTS: &str = r#"
set -u
ip link set lo up
# How often what `mpirun` sent to a host that is gone is sent again: as it is, for a quarter of an hour.
echo 3 > /proc/sys/net/ipv4/tcp_retries2
unshare --net sleep 600 & other=$!
while [ "$(readlink /proc/$other/ns/net)" = "$(readlink /proc/self/ns/net)" ]; do :; done
ip link add cable0 type veth peer name cable1 netns $other
ip addr add 10.77.0.1/24 dev cable0
ip link set cable0 up
nsenter -t $other -n sh -c 'ip link set lo up; ip addr add 10.77.0.2/24 dev cable1; ip link set cable1 up'
printf '#!/bin/sh\nshift\nexec nsenter -t %s -n sh -c "$*"\n' $other > agent
chmod +x agent
ranks() {
    mpirun --allow-run-as-root --mca plm_rsh_agent "$PWD/agent" --host 10.77.0.1,10.77.0.2 -n 2 --bind-to none \
        --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 \
        --mca oob_tcp_keepalive_time 2 --mca oob_tcp_keepalive_intvl 1 --mca oob_tcp_keepalive_probes 2 \
        -x CHIASM_THREADS=1 -x NO_COLOR=1 "$CHIASM" "$@"
}
"#;

/// Runs a script where `ranks` runs the binary on two hosts; its exit code and what it said. `None`, with a message,
/// where that cannot be done.
#[allow(clippy::print_stderr, reason = "a skip is no silent pass")]
fn on_two_hosts(dir: &Path, script: &str) -> Option<(i32, String)> {
    mpirun(dir, 1)?;
    let apart = |script: &str| {
        let mut command = Command::new("unshare");
        command
            .args([
                "--user",
                "--map-root-user",
                "--net",
                "--mount",
                "--pid",
                "--fork",
            ])
            .args(["--mount-proc", "--kill-child", "bash", "-c", script])
            .env("CHIASM", BINARY)
            .current_dir(dir);
        command.output()
    };
    let works = apart("ip link set lo up && command -v nsenter");
    if !works.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no network namespace can be made here");
        return None;
    }
    let script = format!("{HOSTS}{script}\ncode=$?\nkill $other\nexit $code");
    let output = apart(&script).unwrap();
    let said = [&output.stdout[..], &output.stderr]
        .map(String::from_utf8_lossy)
        .concat();
    Some((output.status.code().unwrap_or(-1), said))
}

#[test]
fn two_hosts_are_one() {
    let (dir, _) = workspace(40);
    recipe(dir.path(), 20);
    let run = "ranks pretrain still.toml --data pairs.csv --out two";
    let Some((code, said)) = on_two_hosts(dir.path(), run) else {
        return;
    };
    assert_eq!(code, 0, "{said}");
    succeed(
        dir.path(),
        &[
            "pretrain",
            "still.toml",
            "--data",
            "pairs.csv",
            "--out",
            "one",
        ],
    );
    same_losses(dir.path(), "one", "two");
}

#[test]
fn a_cable_that_is_cut_ends_the_run_with_a_checkpoint() {
    let (dir, _) = workspace(40);
    recipe(dir.path(), 1_000_000);
    let run = r#"
        ranks pretrain still.toml --data pairs.csv --out run --rank-limit 1 & run=$!
        until grep -q '"step":5' run/metrics.jsonl 2> /dev/null; do kill -0 $run || exit 9; done
        ip link set cable0 down
        wait $run
    "#;
    let Some((code, said)) = on_two_hosts(dir.path(), run) else {
        return;
    };
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("error: rank 1 sent nothing for `"), "{said}");
    saved(dir.path(), &said);
}

#[test]
fn a_disk_that_fills_up_ends_the_run_and_leaves_the_last_checkpoint() {
    let (dir, _) = workspace(40);
    recipe(dir.path(), 1_000_000);
    let text = std::fs::read_to_string(dir.path().join("still.toml")).unwrap();
    let text = text.replace("save_every = 0", "save_every = 2");
    std::fs::write(dir.path().join("still.toml"), text).unwrap();
    let run = r#"
        mkdir disk run
        mount -t tmpfs -o size=4m tmpfs disk
        ranks pretrain still.toml --data pairs.csv --out disk/run & run=$!
        until ls disk/run/checkpoints/step-* > /dev/null 2>&1; do kill -0 $run || exit 9; done
        dd if=/dev/zero of=disk/filler bs=4k 2> /dev/null
        wait $run
        code=$?
        rm disk/filler
        cp -r disk/run/. run
        (exit $code)
    "#;
    let Some((code, said)) = on_two_hosts(dir.path(), run) else {
        return;
    };
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("No space left on device"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
    let checkpoints = std::fs::read_dir(dir.path().join("run/checkpoints")).unwrap();
    assert!(checkpoints.count() >= 1, "{said}");
    succeed(dir.path(), &["eval", "run"]);

    // A job that ranks share: whoever meets the full disk says so, and all end.
    let embed = r#"
        mkdir -p disk
        mount -t tmpfs -o size=1m tmpfs disk
        dd if=/dev/zero of=disk/filler bs=4k 2> /dev/null
        ranks embed run --out disk/vectors.safetensors
    "#;
    let (code, said) = on_two_hosts(dir.path(), embed).unwrap();
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("No space left on device"), "{said}");
}
