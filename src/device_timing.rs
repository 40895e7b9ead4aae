//! Time on the device of calls that are repeated: replays of a captured graph on a GPU.
//!
//! CubeCL has no device events on CUDA, and enqueuing an operation costs the host more than a short
//! layer takes. So all calls are captured once in one graph, every call on buffers of its own, and
//! the graph is replayed. One sample is the time of `1 + k` replays with one synchronisation, less
//! the median time of one replay with one, over the `k · calls` calls between them: launch and
//! synchronisation cost the same in both and drop out.
//!
//! Where a capture fails, the calls are enqueued one after the other and synchronised once; that
//! time holds what the host takes where the host is slower than the device, and is reported as such.

use std::time::{Duration, Instant};

use burn::tensor::Device;
use burn_blr::graph::{CapturedGraph, GraphError};
use serde::Serialize;

use crate::device::ChosenDevice;
use crate::error::CommandError;

/// Replays before the first that counts, for as long as the clocks of a GPU take to rise.
const WARM_UP: Duration = Duration::from_millis(50);

/// What the replays of one sample should take, so that jitter of the host (microseconds) is small
/// against it.
const SAMPLE: Duration = Duration::from_millis(4);

/// Most replays in a sample.
const MAX_REPLAYS: usize = 64;

/// Fewest samples of a median.
const MIN_SAMPLES: usize = 10;

/// Calls that are enqueued together where the cost of the host is measured: few, so that no queue
/// on the way is full and the host never waits for the device.
const HOST_CALLS: usize = 8;

/// Samples of the cost of the host.
const HOST_SAMPLES: usize = 9;

/// Calls to be timed, each on operands of its own.
///
/// Everything a call reads must be kept alive by `self` and stay as it is: a graph reads the
/// buffers, not the tensors.
pub trait Work {
    /// What a call makes.
    type Result;

    /// How many calls there are.
    fn calls(&self) -> usize;

    /// Enqueues a call. Nothing in it may wait for the device.
    fn call(&self, index: usize) -> Self::Result;

    /// Overwrites a result in place with what no call makes.
    fn spoil(&self, result: &Self::Result);

    /// Captures all calls, or says why that cannot be.
    fn capture<'a>(&'a self, device: &'a Device) -> Result<Captured<'a, Self::Result>, GraphError>
    where
        Self: Sized,
    {
        // SAFETY: the operands of the captured kernels belong to `self`, which is borrowed for as
        // long as the graph, and this thread is the only one that uses them.
        let graph = unsafe { CapturedGraph::capture(device, move || all(self)) }?;
        Ok(Box::new(Graph { work: self, graph }))
    }
}

/// All calls of a [`Work`], captured.
pub trait Replay {
    /// What a call makes.
    type Result;

    /// Enqueues all calls.
    fn replay(&self) -> Result<(), CommandError>;

    /// Overwrites what the last call made with what no call makes.
    fn spoil(&self);

    /// Ends it; what the last call made.
    fn into_last(self: Box<Self>) -> Option<Self::Result>;
}

/// A [`Replay`] of whichever kind.
pub type Captured<'a, T> = Box<dyn Replay<Result = T> + 'a>;

/// How times were taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Clock {
    /// Replays of a captured graph.
    Graph,
    /// Calls enqueued back to back with one synchronisation after all of them.
    Enqueue,
    /// One call at a time on a device that computes while it is called.
    Wall,
}

impl Clock {
    /// The name used in reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Clock::Graph => "graph",
            Clock::Enqueue => "enqueue",
            Clock::Wall => "wall",
        }
    }
}

/// Times of one call, in microseconds.
pub struct Timing<T> {
    pub clock: Clock,
    /// Why there is no graph, where one was tried.
    pub no_graph: Option<String>,
    pub median_us: f64,
    pub min_us: f64,
    pub max_us: f64,
    /// What a call that is not captured costs the host, until all of it is with the driver.
    pub host_us: f64,
    /// What a replay costs the calling thread, over the calls in it.
    pub graph_host_us: Option<f64>,
    /// What the last call that was timed made, and the index of that call.
    pub last: (usize, T),
}

/// Times the calls of `work`, at least `repetitions` in all.
pub fn time<W: Work>(
    chosen: &ChosenDevice,
    work: &W,
    repetitions: usize,
) -> Result<Timing<W::Result>, CommandError> {
    if chosen.computes_while_called() {
        return on_the_spot(&chosen.device, work, repetitions);
    }
    let device = &chosen.device;
    let mut timing = match work.capture(device) {
        Ok(captured) => by_replays(device, captured, work.calls(), repetitions)?,
        Err(error) => enqueued(device, work, repetitions, error.reason)?,
    };
    timing.host_us = host_us(device, work)?;
    Ok(timing)
}

/// All calls of a [`Work`] in one graph.
struct Graph<'a, W: Work> {
    work: &'a W,
    graph: CapturedGraph<'a, Vec<W::Result>>,
}

impl<W: Work> Replay for Graph<'_, W> {
    type Result = W::Result;

    fn replay(&self) -> Result<(), CommandError> {
        self.graph.replay().map_err(failed)
    }

    fn spoil(&self) {
        if let Some(last) = self.graph.results().last() {
            self.work.spoil(last);
        }
    }

    fn into_last(self: Box<Self>) -> Option<W::Result> {
        self.graph.into_results().pop()
    }
}

/// Seconds of some replays and the synchronisation after them, and those until that began.
fn seconds<T>(
    device: &Device,
    captured: &Captured<'_, T>,
    replays: usize,
) -> Result<(f64, f64), CommandError> {
    let started = Instant::now();
    for _ in 0..replays {
        captured.replay()?;
    }
    let enqueued = started.elapsed().as_secs_f64();
    sync(device)?;
    Ok((started.elapsed().as_secs_f64(), enqueued))
}

fn by_replays<T>(
    device: &Device,
    captured: Captured<'_, T>,
    calls: usize,
    repetitions: usize,
) -> Result<Timing<T>, CommandError> {
    // A replay that wrote nothing would otherwise leave what the rounds before it computed.
    captured.spoil();
    let started = Instant::now();
    while started.elapsed() < WARM_UP {
        seconds(device, &captured, 1)?;
    }
    let mut once = Vec::with_capacity(MIN_SAMPLES);
    for _ in 0..MIN_SAMPLES {
        once.push(seconds(device, &captured, 1)?.0);
    }
    let once = Spread::of(&mut once).median;
    let replays = (SAMPLE.as_secs_f64() / once).ceil() as usize;
    let replays = replays.clamp(1, MAX_REPLAYS);
    let samples = repetitions.div_ceil(replays * calls).max(MIN_SAMPLES);
    let (mut device_us, mut enqueue_us) = (Vec::new(), Vec::new());
    for _ in 0..samples {
        // A replay beside each sample: what disturbed an earlier one would be taken from all of them.
        let (one, _) = seconds(device, &captured, 1)?;
        let (all, enqueued) = seconds(device, &captured, 1 + replays)?;
        device_us.push((all - one) * 1e6 / (replays * calls) as f64);
        enqueue_us.push(enqueued * 1e6 / ((1 + replays) * calls) as f64);
    }
    let Some(last) = captured.into_last() else {
        return Err(CommandError::Device {
            reason: "there is no call to time".to_string(),
        });
    };
    let spread = Spread::of(&mut device_us);
    Ok(Timing {
        clock: Clock::Graph,
        no_graph: None,
        median_us: spread.median,
        min_us: spread.min,
        max_us: spread.max,
        host_us: 0.0,
        graph_host_us: Some(Spread::of(&mut enqueue_us).median),
        last: (calls - 1, last),
    })
}

fn enqueued<W: Work>(
    device: &Device,
    work: &W,
    repetitions: usize,
    no_graph: String,
) -> Result<Timing<W::Result>, CommandError> {
    let calls = work.calls();
    let samples = repetitions.div_ceil(calls).max(MIN_SAMPLES);
    let mut device_us = Vec::with_capacity(samples);
    let mut results = Vec::new();
    for _ in 0..samples {
        results.clear();
        sync(device)?;
        let started = Instant::now();
        results.extend((0..calls).map(|index| work.call(index)));
        sync(device)?;
        device_us.push(started.elapsed().as_secs_f64() * 1e6 / calls as f64);
    }
    let Some(last) = results.pop() else {
        return Err(CommandError::Device {
            reason: "there is no call to time".to_string(),
        });
    };
    let spread = Spread::of(&mut device_us);
    Ok(Timing {
        clock: Clock::Enqueue,
        no_graph: Some(no_graph),
        median_us: spread.median,
        min_us: spread.min,
        max_us: spread.max,
        host_us: 0.0,
        graph_host_us: None,
        last: (calls - 1, last),
    })
}

/// Times calls one by one, on a device that computes in the call itself.
fn on_the_spot<W: Work>(
    device: &Device,
    work: &W,
    repetitions: usize,
) -> Result<Timing<W::Result>, CommandError> {
    let calls = work.calls();
    let mut last = (0, work.call(0));
    sync(device)?;
    let (mut device_us, mut host_us) = (Vec::new(), Vec::new());
    for index in (0..calls).cycle().skip(1).take(repetitions) {
        let started = Instant::now();
        last = (index, work.call(index));
        host_us.push(started.elapsed().as_secs_f64() * 1e6);
        sync(device)?;
        device_us.push(started.elapsed().as_secs_f64() * 1e6);
    }
    let spread = Spread::of(&mut device_us);
    Ok(Timing {
        clock: Clock::Wall,
        no_graph: None,
        median_us: spread.median,
        min_us: spread.min,
        max_us: spread.max,
        host_us: Spread::of(&mut host_us).median,
        graph_host_us: None,
        last,
    })
}

/// What one call costs the host, its threads behind the queues included.
fn host_us<W: Work>(device: &Device, work: &W) -> Result<f64, CommandError> {
    let calls = work.calls();
    let mut samples = Vec::with_capacity(HOST_SAMPLES);
    for sample in 0..HOST_SAMPLES {
        let started = Instant::now();
        let results: Vec<W::Result> = (0..HOST_CALLS)
            .map(|call| work.call((sample * HOST_CALLS + call) % calls))
            .collect();
        device.flush();
        samples.push(started.elapsed().as_secs_f64() * 1e6 / HOST_CALLS as f64);
        sync(device)?;
        drop(results);
    }
    Ok(Spread::of(&mut samples).median)
}

fn all<W: Work>(work: &W) -> Vec<W::Result> {
    (0..work.calls()).map(|index| work.call(index)).collect()
}

/// Waits until the device has done everything.
pub fn sync(device: &Device) -> Result<(), CommandError> {
    device.sync().map_err(failed)
}

fn failed(error: impl std::fmt::Display) -> CommandError {
    CommandError::Device {
        reason: error.to_string(),
    }
}

/// Median and ends of some samples.
#[derive(Debug, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    /// Sorts the samples; NaN where there are none.
    fn of(samples: &mut [f64]) -> Self {
        samples.sort_by(f64::total_cmp);
        let at = |index: usize| samples.get(index).copied().unwrap_or(f64::NAN);
        let count = samples.len();
        Spread {
            median: (at(count.saturating_sub(1) / 2) + at(count / 2)) / 2.0,
            min: at(0),
            max: at(count.saturating_sub(1)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_lies_between_the_two_in_the_middle() {
        let spread = Spread::of(&mut [4.0, 1.0, 3.0, 9.0]);
        assert_eq!((spread.median, spread.min, spread.max), (3.5, 1.0, 9.0));
        assert_eq!(Spread::of(&mut [2.0, 8.0, 5.0]).median, 5.0);
        assert_eq!(Spread::of(&mut [2.0]).median, 2.0);
    }

    #[test]
    fn every_call_is_timed_in_turn_and_the_last_result_is_handed_out() {
        struct Count;
        impl Work for Count {
            type Result = usize;
            fn calls(&self) -> usize {
                3
            }
            fn call(&self, index: usize) -> usize {
                index
            }
            fn spoil(&self, _: &usize) {}
        }
        let timing = on_the_spot(&Device::flex(), &Count, 7);
        let last = timing.map(|timing| timing.last);
        assert!(matches!(last, Ok((1, 1))), "calls 1 2 0 1 2 0 1 were timed");
    }
}
