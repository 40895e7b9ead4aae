"""Runs of `blr` side by side, each after those that it needs, and what is known of them when a killed experiment goes on."""
import dataclasses
import fcntl
import json
import os
import pathlib
import shutil
import subprocess
import threading
import time
from collections.abc import Callable


def nothing(report):
    """Reads no numbers."""
    return {}


@dataclasses.dataclass
class Job:
    """One run of `blr`. Of two that could start, the one with the lower stage does, then the one that was listed first."""

    name: str
    stage: int
    words: list
    read: Callable = nothing  # numbers for `values`, from what --json wrote
    out: pathlib.Path | None = None  # the checkpoint that it makes
    after: tuple = ()  # names of jobs
    on_cpu: bool = False  # whatever device the others have


class Store:
    """What was done and what came of it: DIR/results.json, replaced as a whole each time."""

    def __init__(self, folder, settings):
        self.path, self.mutex = folder / "results.json", threading.Lock()
        self.data = {"settings": settings, "seconds": {}, "values": {}}
        if self.path.exists():
            self.data = json.loads(self.path.read_text())
            for name, value in settings.items():
                found = self.data["settings"].get(name)
                if found != value:
                    raise ValueError(f"{folder} was begun with {name} {found}, not {value}: take another --out or the same {name}")

    def done(self, name):
        return name in self.data["seconds"]

    def value(self, key):
        return self.data["values"].get(key)

    def add(self, name, seconds, values):
        with self.mutex:
            self.data["seconds"][name] = round(seconds, 2)
            self.data["values"].update(values)
            self.write()

    def forget(self, name):
        with self.mutex:
            self.data["seconds"].pop(name, None)

    def write(self):
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.data, indent=1))
        os.replace(unfinished, self.path)


def only_one(folder):
    """Holds DIR for this process and the runs that it starts. Those that a killed one left behind are waited for."""
    lock = open(folder / "lock", "w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print(f"waiting for runs that still write to {folder}", flush=True)
        fcntl.flock(lock, fcntl.LOCK_EX)
    return lock


class Pool:
    """Does jobs, `count` of them side by side.

    No job starts `deadline` seconds after `began`, and those that run are ended at `stop`; they go on from their last validation when the
    experiment is called again.
    """

    def __init__(self, command, device, store, folder, count, began, deadline=float("inf"), stop=float("inf")):
        self.command, self.device, self.store, self.count = command, device, store, count
        self.deadline, self.stop = began + deadline, began + stop
        self.reports = folder / "reports"
        self.reports.mkdir(exist_ok=True)
        self.lock = only_one(folder)
        # Each run on the CPU would take all cores.
        self.environment = {"RAYON_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // count)), **os.environ}
        self.changed = threading.Condition()
        self.running, self.failed, self.ending = {}, {}, False

    def do(self, jobs):
        """Does what is not done; returns the jobs that are left."""
        self.waiting = sorted(pending(jobs, self.store), key=lambda job: job.stage)
        self.total, self.began = len(self.waiting), time.time()
        threads = [threading.Thread(target=self.work, daemon=True) for _ in range(self.count)]
        for thread in threads:
            thread.start()
        try:
            while any(thread.is_alive() for thread in threads):
                if time.time() > self.stop:
                    self.end()
                time.sleep(0.1)
        finally:
            self.end()
            for thread in threads:
                thread.join()
        return pending(jobs, self.store)

    def end(self):
        """Ends what runs."""
        with self.changed:
            self.ending = True
            for process in self.running.values():
                if process is not None and process.poll() is None:
                    process.terminate()
            self.changed.notify_all()

    def work(self):
        while (job := self.next()) is not None:
            began = time.time()
            try:
                values = job.read(self.report(job))
                self.store.add(job.name, time.time() - began, values)
                self.say(job, began, values)
            except Ended:
                pass
            except Exception as error:  # of this job alone: the others go on
                self.failed[job.name] = str(error) if isinstance(error, Failed) else repr(error)
                print(f"{job.name} failed: {self.failed[job.name]}", flush=True)
            with self.changed:
                del self.running[job.name]
                self.changed.notify_all()

    def say(self, job, began, values):
        done = self.total - len(self.waiting) - len(self.running) + 1
        numbers = "; ".join(f"{key} " + " ".join(f"{name} {value:.4g}" for name, value in found.items()) for key, found in values.items())
        print(f"[{time.time() - self.began:4.0f} s, {done}/{self.total}] {job.name} in {time.time() - began:.0f} s {numbers}", flush=True)

    def next(self):
        """The next job, once there is one that can start."""
        with self.changed:
            while self.waiting and not self.ending and time.time() < self.deadline:
                for job in self.waiting:
                    if all(self.store.done(name) for name in job.after):
                        self.waiting.remove(job)
                        self.running[job.name] = None
                        return job
                if not self.running:
                    return None  # what is left needs jobs that failed
                self.changed.wait(1)
        return None

    def report(self, job):
        """What the run reports; that of an earlier one which made the checkpoint and was not heard."""
        path = self.reports / f"{job.name}.json"
        partial = job.out and job.out.with_name(job.out.name + ".partial")
        if job.out and job.out.exists():
            if (found := parsed(path)) is not None:
                return found
            shutil.rmtree(job.out)
        words = [*job.words, *(["--out", job.out] if job.out else [])]
        if partial and partial.exists():
            try:
                return self.run(job, [*words, "--resume"], path)
            except Failed:
                shutil.rmtree(partial, ignore_errors=True)
                if job.out.exists():
                    shutil.rmtree(job.out)
        return self.run(job, words, path)

    def run(self, job, words, report):
        report.unlink(missing_ok=True)
        line = [self.command, *map(str, words), "--device", "cpu" if job.on_cpu else self.device, "--json", str(report)]
        with self.changed:
            if self.ending:
                raise Ended
            process = subprocess.Popen(
                line,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=self.environment,
                pass_fds=(self.lock.fileno(),),
            )
            self.running[job.name] = process
        said, _ = process.communicate()
        if self.ending and process.returncode:
            raise Ended
        found = parsed(report)
        if process.returncode or found is None:
            raise Failed(f"{' '.join(line)}\nexit status {process.returncode}: {said.strip()[-1500:]}")
        return found


class Failed(Exception):
    """A run that gave no report."""


class Ended(Exception):
    """A run that was ended with the others."""


def parsed(path):
    """A report, nothing if it is not there or not whole."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def pending(jobs, store):
    """Jobs that are not done, and those whose checkpoint is gone though one of these needs it."""
    left = {job.name for job in jobs if not store.done(job.name)}
    named = {job.name: job for job in jobs}
    open_ends = list(left)
    while open_ends:
        for name in named[open_ends.pop()].after:
            job = named[name]
            if name not in left and job.out and not job.out.exists():
                store.forget(name)
                left.add(name)
                open_ends.append(name)
    return [job for job in jobs if job.name in left]


def prune(jobs, left):
    """Removes the checkpoints that no job needs any more."""
    needed = {name for job in left for name in job.after} | {job.name for job in left}
    for job in jobs:
        if job.out and job.name not in needed and job.out.exists():
            shutil.rmtree(job.out)
