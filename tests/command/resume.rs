//! Runs that are killed, and go on.

use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::run::{assert_same_files, command, demo_checkpoint, text, text_file};

#[test]
fn a_killed_run_goes_on_where_it_was_and_not_with_other_settings() {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = demo_checkpoint();
    let compress = |out: &Path, extra: &[&str]| {
        let mut arguments = vec![
            "compress",
            text(&checkpoint),
            "--method",
            "blast",
            "--keep",
            "0.3",
            "--steps",
            "12",
            "--tolerance",
            "0",
            "--layers",
            r"attn\.c_attn",
            "--out",
        ];
        arguments.push(text(out));
        arguments.extend(extra);
        command(&arguments)
    };
    let whole = folder.path().join("whole");
    assert!(compress(&whole, &[]).output().unwrap().status.success());

    let out = folder.path().join("killed");
    let work = folder.path().join("killed.partial/.blr-run");
    let mut child = compress(&out, &[]).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(300);
    while !work.join("00000.safetensors").exists() {
        assert!(Instant::now() < deadline, "no layer was finished");
        assert!(
            child.try_wait().unwrap().is_none(),
            "the run ended before it could be killed"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!out.exists(), "half a checkpoint is there");
    let first = std::fs::metadata(work.join("00000.safetensors"))
        .unwrap()
        .modified()
        .unwrap();

    // Without --resume, and with other settings, nothing is touched.
    let finished = compress(&out, &[]).output().unwrap();
    assert_eq!(finished.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&finished.stderr).contains("--resume"));
    let other = compress(&out, &["--resume", "--device", "cpu", "--steps", "13"]);
    let finished = output_of(other);
    assert_eq!(finished.0, Some(2), "{}", finished.1);
    let kept = std::fs::metadata(work.join("00000.safetensors"))
        .unwrap()
        .modified()
        .unwrap();
    assert_eq!(kept, first, "a finished layer was computed again");

    assert!(
        compress(&out, &["--resume"])
            .output()
            .unwrap()
            .status
            .success()
    );
    assert_same_files(&whole, &out);
}

fn output_of(mut command: Command) -> (Option<i32>, String) {
    let output = command.output().unwrap();
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

/// The ways to compress, with samples from `folder` where they take any.
fn ways(folder: &Path) -> [(&'static str, Vec<String>); 3] {
    let samples = text_file(folder, "samples.txt", 0, 6_000);
    let flags = |extra: &[&str]| -> Vec<String> {
        let method = ["--method", "low-rank", "--keep", "0.3", "--layers", "attn"];
        let all = method.iter().chain(extra);
        all.map(|flag| flag.to_string()).collect()
    };
    let seen = ["--calibration", text(&samples)];
    [
        ("plain", flags(&[])),
        ("seen", flags(&seen)),
        (
            "by-error",
            flags(&[&seen[..], &["--ranks", "by-error"]].concat()),
        ),
    ]
}

/// `blr compress` of the demo's checkpoint.
fn compress(out: &Path, flags: &[String], extra: &[&str]) -> Command {
    let checkpoint = demo_checkpoint();
    let mut arguments = vec!["compress", text(&checkpoint), "--out", text(out)];
    arguments.extend(flags.iter().map(String::as_str));
    arguments.extend(extra);
    let mut command = command(&arguments);
    command.stdout(Stdio::null());
    command
}

/// Kills a run after `delay`, unless it ends before that.
fn kill_after(mut command: Command, delay: Duration) -> ExitStatus {
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + delay;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if Instant::now() >= deadline {
            child.kill().unwrap();
            return child.wait().unwrap();
        }
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn a_run_that_is_killed_again_and_again_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for (name, flags) in ways(folder.path()) {
        let whole = folder.path().join(format!("{name}-whole"));
        let started = Instant::now();
        assert!(compress(&whole, &flags, &[]).status().unwrap().success());
        let full = started.elapsed();
        let out = folder.path().join(format!("{name}-killed"));
        // From the first moments on, always a little later.
        let (mut delay, mut kills) = (full / 8, 0);
        loop {
            let status = kill_after(compress(&out, &flags, &["--resume"]), delay);
            match status.code() {
                Some(0) => break,
                None => kills += 1,
                code => panic!("{name}: ended with {code:?} after {kills} kills"),
            }
            assert!(!out.join("config.json").exists() || out.join("report.json").exists());
            delay += full / 8;
        }
        eprintln!("{name}: {kills} kills, {full:?} without");
        assert!(kills >= 3, "{name}: only {kills} kills");
        assert_same_files(&whole, &out);
    }
}

/// A run that the system ends as soon as it writes a file longer than so many blocks, of 512 or 1024
/// bytes by the shell.
fn ended_at(blocks: usize, command: &Command) -> Command {
    let mut shell = Command::new("sh");
    let script = format!("ulimit -c 0; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    shell
        .arg("-c")
        .arg(script)
        .arg(command.get_program())
        .args(command.get_args())
        .stdout(Stdio::null());
    shell
}

#[cfg(unix)]
#[test]
fn a_run_that_is_killed_while_it_writes_a_file_gives_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    for (name, flags) in ways(folder.path()) {
        let whole = folder.path().join(format!("{name}-whole"));
        assert!(compress(&whole, &flags, &[]).status().unwrap().success());
        // In a layer's file, and in that of the checkpoint.
        let cases = [
            (20, ".blr-run/00000.safetensors.tmp"),
            (4000, "model.safetensors.tmp"),
        ];
        for (blocks, unfinished) in cases {
            let out = folder.path().join(format!("{name}-{blocks}"));
            let ended = ended_at(blocks, &compress(&out, &flags, &[]))
                .status()
                .unwrap();
            assert_eq!(ended.code(), None, "{name}: {ended} at {blocks} blocks");
            let partial = folder.path().join(format!("{name}-{blocks}.partial"));
            assert!(partial.join(unfinished).exists(), "{name}: {unfinished}");
            assert!(!out.exists(), "half a checkpoint is there");
            let resumed = compress(&out, &flags, &["--resume"]).status().unwrap();
            assert!(resumed.success(), "{name}");
            assert_same_files(&whole, &out);
        }
    }
}

#[test]
fn a_finished_run_that_is_resumed_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let [(_, flags), ..] = ways(folder.path());
    let (whole, out) = (folder.path().join("whole"), folder.path().join("out"));
    for place in [&whole, &out] {
        assert!(compress(place, &flags, &[]).status().unwrap().success());
    }
    let written = |name: &str| {
        std::fs::metadata(out.join(name))
            .unwrap()
            .modified()
            .unwrap()
    };
    let before = written("model.safetensors");
    // What is left where a kill came before the last files were removed.
    let work = out.join(".blr-run");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(work.join("00001.safetensors"), "layer").unwrap();
    std::fs::remove_file(out.join("report.html")).unwrap();
    let (code, said) = output_of(compress(&out, &flags, &["--resume"]));
    assert_eq!(code, Some(0), "{said}");
    assert_same_files(&whole, &out);
    assert_eq!(before, written("model.safetensors"));

    let (code, said) = output_of(compress(&out, &flags, &[]));
    assert_eq!(code, Some(2));
    assert!(said.contains("already exists"), "{said}");
    let (code, said) = output_of(compress(&out, &flags, &["--resume", "--part"]));
    assert_eq!(code, Some(2));
    assert!(said.contains("part now"), "{said}");
}
