//! What keeps collective operations going.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use burn::tensor::Device;

/// Time between two rounds.
const INTERVAL: Duration = Duration::from_millis(1);

/// Hands over what the queues of some devices hold back, again and again until it is dropped.
///
/// Burn and CubeCL give tasks to the thread of a device in batches of 32. Gradients that are averaged
/// over NCCL are one task for each device, and the thread of one waits within it for the other. Where
/// the other's task is in a batch that is not full, nobody fills it: whoever would is waiting for the
/// first.
pub(super) struct Pump {
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pump {
    /// Starts a thread for each device: one that waits for its own must not keep another waiting.
    pub fn start(devices: &[Device]) -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let thread = |device: &Device| {
            let (device, stopped) = (device.clone(), stopped.clone());
            thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    device.flush();
                    thread::sleep(INTERVAL);
                }
            })
        };
        let threads = devices.iter().map(thread).collect();
        Self { stopped, threads }
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A thread that failed has no more to hand over.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_threads_end_with_it() {
        let pump = Pump::start(&[Device::flex(), Device::flex()]);
        let stopped = pump.stopped.clone();
        assert!(pump.threads.iter().all(|thread| !thread.is_finished()));
        drop(pump);
        // Each thread held it.
        assert_eq!(Arc::strong_count(&stopped), 1);
    }
}
