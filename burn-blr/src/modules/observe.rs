//! What goes into layers while a model runs.

use std::cell::RefCell;

use burn::module::ParamId;
use burn::tensor::Tensor;

thread_local! {
    static OBSERVED: RefCell<Option<Observed>> = const { RefCell::new(None) };
}

/// The layers that are observed, and what went into them so far.
struct Observed {
    layers: Vec<ParamId>,
    inputs: Vec<(ParamId, Tensor<2>)>,
}

/// Runs `work`, and returns besides its result the inputs `[rows, in]` of `layers`
/// ([`BlrLinear::id`](super::BlrLinear::id)), an entry for each time that one is applied on this
/// thread. Inputs are held until then, so `work` should be one batch.
pub fn observe_inputs<T>(
    layers: &[ParamId],
    work: impl FnOnce() -> T,
) -> (T, Vec<(ParamId, Tensor<2>)>) {
    /// Ends the observation also where `work` panics.
    struct End(Option<Observed>);
    impl Drop for End {
        fn drop(&mut self) {
            OBSERVED.set(self.0.take());
        }
    }
    let begun = Observed {
        layers: layers.to_vec(),
        inputs: vec![],
    };
    let end = End(OBSERVED.replace(Some(begun)));
    let result = work();
    let inputs = OBSERVED.take().map(|observed| observed.inputs);
    drop(end);
    (result, inputs.unwrap_or_default())
}

/// Keeps `input` if the layer is observed.
pub(super) fn observe<const D: usize>(layer: impl FnOnce() -> ParamId, input: &Tensor<D>) {
    OBSERVED.with_borrow_mut(|observed| {
        let Some(observed) = observed else { return };
        let layer = layer();
        if observed.layers.contains(&layer) {
            let dims = input.dims();
            let (rows, width) = dims.split_at(D - 1);
            let rows: usize = rows.iter().product();
            let width: usize = width.iter().product();
            observed
                .inputs
                .push((layer, input.clone().reshape([rows, width])));
        }
    });
}
