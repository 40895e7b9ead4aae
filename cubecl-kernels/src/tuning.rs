//! Plans chosen by measurement, by CubeCL's tuner.
//!
//! With [`Strategy::Tuned`], the first call of each class of shapes times
//! the few plans that the cost model thinks best, on the operands of the call, and takes the
//! fastest from then on. A class has the exact sizes of the layer and a token count rounded up, four
//! steps to a power of two. Results stay in the folder of CubeCL's persistent cache, for later
//! processes.
//!
//! Plans are timed as replays of a captured graph: enqueuing a launch takes the host about as long
//! as a short product takes the device. So nothing is measured on a runtime without graphs, nor
//! while the caller captures a graph or prepares to: such a call runs what is known, else what the
//! cost model says. To capture tuned plans, make a call of the same shapes before.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use cubecl::client::Graph;
use cubecl::prelude::*;
use cubecl::server::ServerError;
use cubecl::tune::{Tunable, TunableSet, TuneCacheResult, Tuner};

use crate::context::Context;
use crate::operand::elements_reached;
use crate::strategy::Strategy;

/// Launches in one graph, at least.
const LAUNCHES: usize = 16;

/// What one sample should take. CubeCL waits for a CUDA device in steps of up to 0.2 ms.
const SAMPLE: Duration = Duration::from_millis(4);

/// Replays of a graph in one sample, at most.
const MAX_REPLAYS: usize = 256;

/// Bytes over which the launches of a graph spread the factor that they read, each a copy of its own, so that
/// it is not found in cache where a network would not find it, and copies of it at most.
const SPREAD_BYTES: usize = 128 << 20;
const MAX_COPIES: usize = 512;

/// Classes of shapes that this process has measured.
static MEASURED: AtomicUsize = AtomicUsize::new(0);

/// The results of each device.
static TUNERS: LazyLock<Mutex<HashMap<String, Arc<Tuner<String>>>>> = LazyLock::new(Mutex::default);

/// Number of classes of shapes that this process has measured; those known from before do not
/// count.
pub fn measured() -> usize {
    MEASURED.load(Ordering::Relaxed)
}

/// Forgets the results that this process holds in memory, so that the next calls look into CubeCL's
/// persistent cache again.
pub fn forget() {
    tuners().clear();
}

fn tuners() -> MutexGuard<'static, HashMap<String, Arc<Tuner<String>>>> {
    TUNERS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The results for the device of `client`: those of another model of the same kind are not taken
/// for them.
fn tuner<R: Runtime>(client: &ComputeClient<R>) -> Arc<Tuner<String>> {
    let hardware = &client.properties().hardware;
    let device = format!(
        "{}-{}-{}",
        R::name(client),
        hardware.num_streaming_multiprocessors.unwrap_or(0),
        hardware.max_shared_memory_size
    );
    let mut tuners = tuners();
    if let Some(tuner) = tuners.get(&device) {
        return tuner.clone();
    }
    let tuner = Arc::new(Tuner::new("blr-plans", &device));
    tuners.insert(device, tuner.clone());
    tuner
}

/// The fastest plan for `key`, if this process knows it already.
pub(crate) fn known<R: Runtime>(client: &ComputeClient<R>, key: &String) -> Option<usize> {
    match tuner(client).fastest(key) {
        TuneCacheResult::Hit { fastest_index } => Some(fastest_index),
        _ => None,
    }
}

/// The fastest plan for `key`: from the persistent cache, else of the `candidates`, numbered plans.
///
/// `names` are the names of all plans, by number; number 0 is what the cost model says. `start`
/// starts a plan with the given factor, which is `factor` or one like it. Nothing is returned where
/// a measurement is needed and can not be made now.
pub(crate) fn measure<R: Runtime, P: Send + Sync + 'static>(
    context: &Context<'_, R>,
    key: &String,
    names: &[String],
    candidates: Vec<(usize, P)>,
    factor: &TensorBinding<R>,
    start: impl Fn(&P, &Context<'_, R>, TensorBinding<R>) + Send + Sync + 'static,
) -> Option<usize> {
    // Refused while the caller's own capture is prepared or recorded: a measurement would end it.
    context.client.graph_prepare().ok()?;
    let (client, dtype, bytes) = (context.client.clone(), context.dtype, context.element_bytes);
    let (factor, factors) = (factor.clone(), OnceLock::new());
    let factor_bytes = elements_reached(&factor) * bytes;
    let number = SPREAD_BYTES.div_ceil(factor_bytes.max(1)).min(MAX_COPIES);
    let contest = Contest {
        numbers: candidates.iter().map(|(number, _)| *number).collect(),
        launches: number.max(LAUNCHES),
        start: Box::new(move |candidate, copy| {
            let factors = factors.get_or_init(|| copies(&client, &factor, factor_bytes, number));
            if let Ok(context) = Context::new(&client, dtype, &Strategy::Auto) {
                let factor = factors[copy % factors.len()].clone();
                start(&candidates[candidate].1, &context, factor);
            }
        }),
    };
    rehearsed(context.client, key, names, contest)
}

/// Candidates and how to start them.
struct Contest {
    /// The numbers by which results name the candidates.
    numbers: Vec<usize>,
    /// Launches in the graph of a candidate.
    launches: usize,
    /// Starts a candidate, reading the copy of the factor with this index, modulo their number.
    start: Box<dyn Fn(usize, usize) + Send + Sync>,
}

/// The fastest plan for `key`, on a stream that is prepared for a capture; it is not afterwards.
fn rehearsed<R: Runtime>(
    client: &ComputeClient<R>,
    key: &String,
    names: &[String],
    contest: Contest,
) -> Option<usize> {
    let prepared = Arc::new(AtomicBool::new(true));
    let generate = {
        let (client, prepared) = (client.clone(), prepared.clone());
        move |_: &String, job: &Job<R>| match job {
            Job::Wanted(contest) => {
                MEASURED.fetch_add(1, Ordering::Relaxed);
                let prepared = prepared.swap(false, Ordering::Relaxed);
                let rehearsal = Rehearsal::new(&client, contest.clone(), prepared);
                Job::Rehearsed(Arc::new(rehearsal))
            }
            rehearsed => rehearsed.clone(),
        }
    };
    let set = TunableSet::<String, Job<R>, ()>::new(|_: &Job<R>| String::new(), generate);
    let set = names.iter().enumerate().fold(set, |set, (number, name)| {
        set.with(Tunable::new(name, move |job: Job<R>| job.replay(number)))
    });
    let wanted = Job::Wanted(Arc::new(contest));
    let checksum = || set.compute_checksum();
    let result = tuner(client).check_tune(key, &wanted, &set, checksum, client, None);
    if prepared.load(Ordering::Relaxed) {
        // The result was there; an empty capture ends the preparation.
        abandon(client);
    }
    match result {
        TuneCacheResult::Hit { fastest_index } => Some(fastest_index),
        _ => None,
    }
}

/// What CubeCL's tuner passes around: what to rehearse, then what has been rehearsed.
enum Job<R: Runtime> {
    Wanted(Arc<Contest>),
    Rehearsed(Arc<Rehearsal<R>>),
}

impl<R: Runtime> Clone for Job<R> {
    fn clone(&self) -> Self {
        match self {
            Job::Wanted(contest) => Job::Wanted(contest.clone()),
            Job::Rehearsed(rehearsal) => Job::Rehearsed(rehearsal.clone()),
        }
    }
}

impl<R: Runtime> Job<R> {
    /// One sample of plan `number`.
    fn replay(&self, number: usize) -> Result<(), String> {
        let Job::Rehearsed(rehearsal) = self else {
            return Err("not rehearsed".to_string());
        };
        let mut graphs = rehearsal.graphs.iter();
        match graphs.find(|(rehearsed, _)| *rehearsed == number) {
            Some((_, graph)) => {
                rehearsal.replay(graph, rehearsal.replays);
                Ok(())
            }
            None => Err("not a candidate for this shape".to_string()),
        }
    }
}

/// Every candidate of a contest, captured in a graph.
struct Rehearsal<R: Runtime> {
    graphs: Vec<(usize, Graph<R>)>,
    /// Replays in a sample.
    replays: usize,
    /// Owns the operands of the graphs.
    _contest: Arc<Contest>,
}

impl<R: Runtime> Rehearsal<R> {
    /// Captures every candidate that can be; the first without preparing, if `prepared`.
    fn new(client: &ComputeClient<R>, contest: Arc<Contest>, mut prepared: bool) -> Self {
        let mut graphs = Vec::new();
        for (candidate, number) in contest.numbers.iter().enumerate() {
            if !prepared && client.graph_prepare().is_err() {
                continue;
            }
            prepared = false;
            // A kernel that failed to build is not in the contest.
            let start = |copy| (contest.start)(candidate, copy);
            if let Ok(graph) = capture(client, contest.launches, start) {
                graphs.push((*number, graph));
            }
        }
        let mut rehearsal = Self {
            graphs,
            replays: 1,
            _contest: contest,
        };
        rehearsal.replays = rehearsal.replays_per_sample(client);
        rehearsal
    }

    /// Replays that take about [`SAMPLE`], by the time of the first plan.
    fn replays_per_sample(&self, client: &ComputeClient<R>) -> usize {
        let Some((_, graph)) = self.graphs.first() else {
            return 1;
        };
        let seconds = |replays: usize| {
            let started = Instant::now();
            self.replay(graph, replays);
            // What goes wrong in a replay shows in the samples again.
            let _ = cubecl::future::block_on(client.sync());
            started.elapsed().as_secs_f64()
        };
        seconds(1);
        let (few, many) = (seconds(1), seconds(9));
        let once = ((many - few) / 8.0).max(1e-6);
        let replays = (SAMPLE.as_secs_f64() / once).ceil() as usize;
        replays.clamp(1, MAX_REPLAYS)
    }

    fn replay(&self, graph: &Graph<R>, replays: usize) {
        for _ in 0..replays {
            // SAFETY: the contest owns the operands, and all of them belong to the call that is
            // being planned, whose stream the graph was captured on.
            unsafe { graph.replay() };
        }
    }
}

/// Makes some launches, then captures them, on a stream that is prepared for it.
fn capture<R: Runtime>(
    client: &ComputeClient<R>,
    launches: usize,
    start: impl Fn(usize) + Sync,
) -> Result<Graph<R>, ServerError> {
    let launch = || (0..launches).for_each(&start);
    launch();
    // A kernel that failed to build shows here; in a capture it would only be missing.
    if let Err(error) = cubecl::future::block_on(client.sync()) {
        abandon(client);
        return Err(error);
    }
    // Alone on the device: what CUDA forbids during a capture, it forbids other streams as well.
    client.exclusive(|| {
        if let Err(error) = client.start_capture() {
            abandon(client);
            return Err(error);
        }
        launch();
        client.stop_capture()
    })?
}

/// Leaves the state of a stream in which a capture is prepared.
fn abandon<R: Runtime>(client: &ComputeClient<R>) {
    if client.start_capture().is_ok() {
        // Nothing was captured: there is nothing to keep, and nothing that could be wrong.
        let _ = client.stop_capture();
    }
}

/// `factor`, of so many bytes, and memory of the same layout, a `number` of them in all, for the launches of a
/// graph to read in turn.
fn copies<R: Runtime>(
    client: &ComputeClient<R>,
    factor: &TensorBinding<R>,
    bytes: usize,
    number: usize,
) -> Vec<TensorBinding<R>> {
    let mut factors = vec![factor.clone()];
    // What they hold does not matter: the results are overwritten.
    factors.extend((1..number).map(|_| TensorBinding {
        handle: client.empty(bytes).binding(),
        ..factor.clone()
    }));
    factors
}
