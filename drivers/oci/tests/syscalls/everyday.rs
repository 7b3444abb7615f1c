//! Everyday programs, as they are on this machine, under the standard profile.

use std::path::Path;

use serde_json::json;

use super::common::{World, root};
use super::run_with;

async fn works(name: &str, command: &[&str], expected: &str) {
    if !root(name) {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    let (status, text) = run_with(&driver, None, &json!({}), command).await;
    assert_eq!((status.code, text.replace('\r', "").as_str()), (Some(0), expected), "{name}");
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn python_with_threads_processes_shared_memory_terminals_and_sockets() {
    let script = include_str!("../programs/everyday.py");
    if !root("python_with_threads_processes_shared_memory_terminals_and_sockets") {
        return;
    }
    let world = World::new();
    let driver = world.driver();
    // From a file: its helper processes load it again.
    let command = format!("cat > /tmp/everyday.py <<'END'\n{script}\nEND\nexec /usr/bin/python3 /tmp/everyday.py 2>&1");
    let (status, text) = run_with(&driver, None, &json!({}), &["bash", "-c", &command]).await;
    for what in ["threads", "processes", "memory", "database", "waiting", "copying", "terminal", "network"] {
        assert!(text.lines().any(|line| line.trim_end() == what), "{what}: {text}");
    }
    assert_eq!(status.code, Some(0), "{text}");
    world.assert_no_traces();
}

#[tokio::test(flavor = "multi_thread")]
async fn shell_tools_with_many_files_and_a_terminal() {
    let script = "cd /workspace && mkdir tree && for n in $(seq 300); do echo $RANDOM > tree/$n; done; \
                  tar cf tree.tar tree && mkdir out && tar xpf tree.tar -C out && diff -r tree out/tree && echo tar; \
                  find out -type f | xargs -P 4 -n 20 cat | sort -n --parallel=2 -S 1M | uniq | wc -l > /dev/null && echo sort; \
                  cp -a --reflink=auto tree copy && mv copy moved && rm -r moved && echo copy; \
                  script -qec 'tty > /dev/null && stty -a > /dev/null && echo terminal' /dev/null; \
                  (trap 'echo trapped' TERM; kill -TERM $BASHPID); timeout 0.1 sleep 9; echo $?; \
                  mkfifo pipe; (echo through > pipe &); cat pipe; nice -n 5 true && nohup true 2>/dev/null && echo nice; \
                  exec 9> lock; flock -n 9 && echo lock; gzip -k tree.tar && zcat tree.tar.gz | cmp - tree.tar && echo gzip; \
                  date +%Y > /dev/null && id -un && perl -e 'fork or exit; wait; print \"perl\\n\"'";
    let expected = "tar\nsort\ncopy\nterminal\ntrapped\n124\nthrough\nnice\nlock\ngzip\nroot\nperl\n";
    works("shell_tools_with_many_files_and_a_terminal", &["bash", "-c", script], expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn git_commits_clones_and_collects() {
    let script = "cd /workspace && git init -q a && cd a && git config user.email a@b.c && git config user.name x && \
                  for n in 1 2 3; do echo $n > $n; git add . && git commit -qm $n; done && git gc -q && cd .. && \
                  git clone -q a b && cd b && git checkout -q -b x && git log --oneline | wc -l && git fsck 2>/dev/null && echo sound";
    works("git_commits_clones_and_collects", &["bash", "-c", script], "3\nsound\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_builds_a_program_that_runs() {
    let script = "cd /workspace && printf '#include <stdio.h>\\nint main(void){puts(\"built\");return 0;}' > a.c && \
                  cc -pipe -o a a.c && ./a";
    works("a_compiler_builds_a_program_that_runs", &["bash", "-c", script], "built\n").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_with_workers_children_and_files() {
    if !Path::new("/usr/bin/node").exists() {
        eprintln!("SKIPPED node_with_workers_children_and_files: /usr/bin/node is not there");
        return;
    }
    let script = "const { Worker } = require('worker_threads'); const fs = require('fs'); \
                  const { execFileSync, fork } = require('child_process'); const net = require('net'); \
                  fs.writeFileSync('/tmp/a', 'x'); fs.watch('/tmp').close(); \
                  new Worker(\"require('worker_threads').parentPort.postMessage('worker')\", { eval: true }) \
                    .on('message', said => { console.log(said); \
                      console.log(execFileSync('echo', ['child']).toString().trim()); \
                      const server = net.createServer(socket => socket.end('socket')).listen(0, '127.0.0.1', () => \
                        net.connect(server.address().port).on('data', data => { console.log(data.toString()); server.close(); })); });";
    works("node_with_workers_children_and_files", &["/usr/bin/node", "-e", script], "worker\nchild\nsocket\n").await;
}
