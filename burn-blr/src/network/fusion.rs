//! What a network does between its layers as custom operations of a fusion stream.

use burn::backend::tensor::{FloatTensor, IntTensor};
use burn::tensor::{DType, Shape};
use burn_fusion::{Fusion, FusionBackend};
use cubecl_kernels::norm::Norm;

use super::backend::append_then_attend;
use super::{Added, Affine, NetworkBackend, NewRows, Turned, Visible, plain};
use crate::recorded::{Recordable, register};

impl<B: FusionBackend + NetworkBackend> NetworkBackend for Fusion<B> {
    fn multi_head_attention(
        query: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        visible: Visible<Self>,
        scale: f64,
    ) -> FloatTensor<Self> {
        let [batch, heads, tokens, width] = query.shape.dims();
        // Where no kernel will serve it, fusion does better with the single operations.
        if query.dtype == DType::F32 && tokens > 1 {
            return plain::attention::<Self>(query, key, value, visible, scale);
        }
        let call = Call::Attention {
            causal: matches!(visible, Visible::Causal { .. }),
            scale,
        };
        let integers = match visible {
            Visible::All => Vec::new(),
            Visible::Causal { queries, keys } => vec![queries, keys],
            Visible::Except(_) => {
                return plain::attention::<Self>(query, key, value, visible, scale);
            }
        };
        let shape = Shape::new([batch, tokens, heads, width]);
        let floats = vec![query, key, value];
        let [output] = register::<B, Call, 1>(call, floats, integers, vec![shape]);
        output
    }

    fn append_key_value(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        key: FloatTensor<Self>,
        value: FloatTensor<Self>,
        position: IntTensor<Self>,
        slots: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let shapes = vec![keys.shape.clone(), values.shape.clone()];
        let floats = vec![keys, values, key, value];
        let integers = vec![position, slots];
        register::<B, Call, 2>(Call::AppendKeyValue, floats, integers, shapes).into()
    }

    fn append_turned(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        new: Turned<Self>,
        position: IntTensor<Self>,
        slots: IntTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let Turned {
            query,
            key,
            value,
            cos,
            sin,
        } = new;
        let shapes = [&keys, &values, &query].map(|tensor| tensor.shape.clone());
        let floats = vec![keys, values, query, key, value, cos, sin];
        let integers = vec![position, slots];
        register::<B, Call, 3>(Call::AppendTurned, floats, integers, shapes.into()).into()
    }

    fn append_and_attend(
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        new: NewRows<Self>,
        position: IntTensor<Self>,
        slots: IntTensor<Self>,
        visible: Visible<Self>,
        scale: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>, FloatTensor<Self>) {
        let [batch, heads, tokens, width] = new.query().shape.dims();
        let (queries, at) = match visible {
            Visible::Causal { queries, keys } if new.may_be_one_launch() => (queries, keys),
            visible => {
                return append_then_attend::<Self>(
                    keys, values, new, position, slots, visible, scale,
                );
            }
        };
        let attended = Shape::new([batch, tokens, heads, width]);
        let shapes = vec![keys.shape.clone(), values.shape.clone(), attended];
        let mut floats = vec![keys, values];
        let turned = match new {
            NewRows::Still { query, key, value } => {
                floats.extend([query, key, value]);
                false
            }
            NewRows::Turned(new) => {
                floats.extend([new.query, new.key, new.value, new.cos, new.sin]);
                true
            }
        };
        let integers = vec![position, slots, queries, at];
        let call = Call::AppendAndAttend { turned, scale };
        register::<B, Call, 3>(call, floats, integers, shapes).into()
    }

    fn narrow(
        tensor: FloatTensor<Self>,
        axis: usize,
        start: usize,
        length: usize,
    ) -> FloatTensor<Self> {
        let mut shape = tensor.shape.clone();
        shape[axis] = length;
        let call = Call::Narrow {
            axis,
            start,
            length,
        };
        let [part] = register::<B, Call, 1>(call, vec![tensor], Vec::new(), vec![shape]);
        part
    }

    fn rotate(
        rows: FloatTensor<Self>,
        cos: FloatTensor<Self>,
        sin: FloatTensor<Self>,
    ) -> FloatTensor<Self> {
        let shape = rows.shape.clone();
        let [turned] =
            register::<B, Call, 1>(Call::Rotate, vec![rows, cos, sin], Vec::new(), vec![shape]);
        turned
    }

    fn add_norm(
        input: FloatTensor<Self>,
        added: Added<Self>,
        affine: Affine<Self>,
        norm: Norm,
        epsilon: f64,
    ) -> (FloatTensor<Self>, FloatTensor<Self>) {
        let shape = input.shape.clone();
        let sum = input.clone();
        let mut floats = vec![input];
        let added = match added {
            Added::Nothing => AddedKind::Nothing,
            Added::Residual(residual) => {
                floats.push(residual);
                AddedKind::Residual
            }
            Added::Gated { residual, gate } => {
                floats.extend([residual, gate]);
                AddedKind::Gated
            }
        };
        let affine = match affine {
            Affine::Nothing => AffineKind::Nothing,
            Affine::Scaled(scale) => {
                floats.push(scale);
                AffineKind::Scaled
            }
            Affine::Shifted { scale, shift } => {
                floats.extend([scale, shift]);
                AffineKind::Shifted
            }
            Affine::Modulated { scale, shift } => {
                floats.extend([scale, shift]);
                AffineKind::Modulated
            }
        };
        let call = Call::AddNorm {
            added,
            affine,
            norm,
            epsilon,
        };
        if added == AddedKind::Nothing {
            let [output] = register::<B, Call, 1>(call, floats, Vec::new(), vec![shape]);
            return (sum, output);
        }
        drop(sum);
        register::<B, Call, 2>(call, floats, Vec::new(), vec![shape.clone(), shape]).into()
    }
}

/// One operation of [`NetworkBackend`] with everything but its tensors.
#[derive(Debug, Clone, Copy)]
enum Call {
    Attention {
        causal: bool,
        scale: f64,
    },
    AppendKeyValue,
    AppendTurned,
    AppendAndAttend {
        turned: bool,
        scale: f64,
    },
    Narrow {
        axis: usize,
        start: usize,
        length: usize,
    },
    Rotate,
    AddNorm {
        added: AddedKind,
        affine: AffineKind,
        norm: Norm,
        epsilon: f64,
    },
}

/// Which [`Added`] it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AddedKind {
    Nothing,
    Residual,
    Gated,
}

/// Which [`Affine`] it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AffineKind {
    Nothing,
    Scaled,
    Shifted,
    Modulated,
}

impl<B: FusionBackend + NetworkBackend> Recordable<B> for Call {
    fn name(self) -> String {
        let name = match self {
            Call::Attention { causal: true, .. } => "blr::causal_attention",
            Call::Attention { causal: false, .. } => "blr::attention",
            Call::AppendKeyValue => "blr::append_key_value",
            Call::AppendTurned => "blr::append_turned",
            Call::AppendAndAttend { turned: false, .. } => "blr::append_and_attend",
            Call::AppendAndAttend { turned: true, .. } => "blr::append_turned_and_attend",
            Call::Narrow { .. } => "blr::narrow",
            Call::Rotate => "blr::rotate",
            Call::AddNorm { norm, affine, .. } => match (norm, affine) {
                (Norm::Rms, AffineKind::Modulated) => "blr::modulated_rms_norm",
                (Norm::Rms, _) => "blr::rms_norm",
                (Norm::Layer, AffineKind::Modulated) => "blr::modulated_layer_norm",
                (Norm::Layer, _) => "blr::layer_norm",
            },
        };
        name.to_string()
    }

    fn run(self, floats: Vec<FloatTensor<B>>, integers: Vec<IntTensor<B>>) -> Vec<FloatTensor<B>> {
        let (mut floats, mut integers) = (floats.into_iter(), integers.into_iter());
        let mut float = || floats.next().unwrap_or_else(|| unreachable!("{self:?}"));
        let mut integer = || integers.next().unwrap_or_else(|| unreachable!("{self:?}"));
        match self {
            Call::Attention { causal, scale } => {
                let (query, key, value) = (float(), float(), float());
                let visible = if causal {
                    let (queries, keys) = (integer(), integer());
                    Visible::Causal { queries, keys }
                } else {
                    Visible::All
                };
                vec![B::multi_head_attention(query, key, value, visible, scale)]
            }
            Call::AppendKeyValue => {
                let (keys, values, key, value) = (float(), float(), float(), float());
                let (position, slots) = (integer(), integer());
                let (keys, values) = B::append_key_value(keys, values, key, value, position, slots);
                vec![keys, values]
            }
            Call::AppendTurned => {
                let (keys, values) = (float(), float());
                let new = Turned {
                    query: float(),
                    key: float(),
                    value: float(),
                    cos: float(),
                    sin: float(),
                };
                let (keys, values, query) =
                    B::append_turned(keys, values, new, integer(), integer());
                vec![keys, values, query]
            }
            Call::AppendAndAttend { turned, scale } => {
                let (keys, values) = (float(), float());
                let (query, key, value) = (float(), float(), float());
                let new = if turned {
                    NewRows::Turned(Turned {
                        query,
                        key,
                        value,
                        cos: float(),
                        sin: float(),
                    })
                } else {
                    NewRows::Still { query, key, value }
                };
                let (position, slots) = (integer(), integer());
                let visible = Visible::Causal {
                    queries: integer(),
                    keys: integer(),
                };
                let (keys, values, attended) =
                    B::append_and_attend(keys, values, new, position, slots, visible, scale);
                vec![keys, values, attended]
            }
            Call::Narrow {
                axis,
                start,
                length,
            } => vec![B::narrow(float(), axis, start, length)],
            Call::Rotate => vec![B::rotate(float(), float(), float())],
            Call::AddNorm {
                added,
                affine,
                norm,
                epsilon,
            } => {
                let input = float();
                let added = match added {
                    AddedKind::Nothing => Added::Nothing,
                    AddedKind::Residual => Added::Residual(float()),
                    AddedKind::Gated => {
                        let (residual, gate) = (float(), float());
                        Added::Gated { residual, gate }
                    }
                };
                let alone = matches!(added, Added::Nothing);
                let affine = match affine {
                    AffineKind::Nothing => Affine::Nothing,
                    AffineKind::Scaled => Affine::Scaled(float()),
                    AffineKind::Shifted => {
                        let (scale, shift) = (float(), float());
                        Affine::Shifted { scale, shift }
                    }
                    AffineKind::Modulated => {
                        let (scale, shift) = (float(), float());
                        Affine::Modulated { scale, shift }
                    }
                };
                let (sum, output) = B::add_norm(input, added, affine, norm, epsilon);
                if alone {
                    vec![output]
                } else {
                    vec![sum, output]
                }
            }
        }
    }
}
