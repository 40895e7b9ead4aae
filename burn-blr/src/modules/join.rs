//! Several layers of one input as one.

use burn::module::Param;
use burn::nn::Linear;
use burn::tensor::Tensor;

use super::{BlastLinear, BlrLinear, LowRankLinear, MonarchLinear};
use crate::{OutputOrder, init};

impl BlrLinear {
    /// One layer whose output is those of `layers`, side by side; they all have to read the same input.
    ///
    /// With few tokens most of a layer's time is the start of its launches, and the joined layer has as
    /// many as one of them, but for the last product of BLAST. Its outputs are the same numbers. It holds
    /// copies of the factors: of query, key and value of an attention, say, which can then be dropped.
    ///
    /// Dense layers may differ in width; others are joined where they have the same structure and
    /// features, and low-rank ones become a Monarch layer of one block. Nothing if the layers are not
    /// like that, if their outputs are interleaved, or if only some have a bias.
    pub fn join(layers: &[&BlrLinear]) -> Option<BlrLinear> {
        let (first, others) = layers.split_first()?;
        let alike = |other: &&BlrLinear| {
            let fits = match (first, other) {
                (BlrLinear::Dense(_), BlrLinear::Dense(_)) => {
                    first.features().0 == other.features().0
                }
                _ => first.structure() == other.structure() && first.features() == other.features(),
            };
            fits && first.has_bias() == other.has_bias() && other.layers() == 1
        };
        if first.layers() > 1 || !others.iter().all(alike) {
            return None;
        }
        let biases: Option<Vec<_>> = layers.iter().map(|layer| layer.bias()).collect();
        let bias = biases.map(|biases| init::parameter(Tensor::cat(biases, 0).detach()));
        Some(match first {
            BlrLinear::Dense(_) => {
                let layers = taken(layers, BlrLinear::as_dense)?;
                // Rows of outputs one below the other, as the kernels like them.
                let weight = behind(&layers, 0, |layer| layer.weight.val().transpose());
                let weight = init::parameter(weight.transpose());
                BlrLinear::Dense(Linear { weight, bias })
            }
            BlrLinear::LowRank(layer) => {
                let ([out_features, rank], [_, in_features]) = (layer.u.dims(), layer.v.dims());
                let layers = taken(layers, BlrLinear::as_low_rank)?;
                let right = behind(&layers, 0, |layer| layer.v.val());
                let left = behind(&layers, 0, |layer| layer.u.val());
                let count = layers.len();
                BlrLinear::Monarch(MonarchLinear {
                    right: init::parameter(right.reshape([1, count * rank, in_features])),
                    left: init::parameter(left.reshape([count, out_features, rank])),
                    bias,
                    order: OutputOrder::Contiguous,
                })
            }
            BlrLinear::Monarch(layer) if layer.order == OutputOrder::Interleaved => return None,
            BlrLinear::Monarch(_) => {
                let layers = taken(layers, BlrLinear::as_monarch)?;
                BlrLinear::Monarch(MonarchLinear {
                    right: init::parameter(behind(&layers, 1, |layer| layer.right.val())),
                    left: init::parameter(behind(&layers, 0, |layer| layer.left.val())),
                    bias,
                    order: OutputOrder::Contiguous,
                })
            }
            BlrLinear::Blast(_) => {
                let layers = taken(layers, BlrLinear::as_blast)?;
                BlrLinear::Blast(BlastLinear {
                    u: init::parameter(behind(&layers, 0, |layer| layer.u.val())),
                    s: init::parameter(behind(&layers, 2, |layer| layer.s.val())),
                    v: init::parameter(behind(&layers, 1, |layer| layer.v.val())),
                    bias,
                })
            }
        })
    }

    /// Number of layers that this one is [joined](BlrLinear::join) of, as far as its factors tell: dense
    /// layers do not.
    pub fn layers(&self) -> usize {
        match self {
            BlrLinear::Dense(_) | BlrLinear::LowRank(_) => 1,
            BlrLinear::Monarch(layer) => layer.left.dims()[0] / layer.right.dims()[0],
            BlrLinear::Blast(layer) => layer.layers(),
        }
    }

    fn as_dense(&self) -> Option<&Linear> {
        match self {
            BlrLinear::Dense(layer) => Some(layer),
            _ => None,
        }
    }

    fn as_low_rank(&self) -> Option<&LowRankLinear> {
        match self {
            BlrLinear::LowRank(layer) => Some(layer),
            _ => None,
        }
    }

    fn as_monarch(&self) -> Option<&MonarchLinear> {
        match self {
            BlrLinear::Monarch(layer) => Some(layer),
            _ => None,
        }
    }

    fn as_blast(&self) -> Option<&BlastLinear> {
        match self {
            BlrLinear::Blast(layer) => Some(layer),
            _ => None,
        }
    }
}

/// What `layers` are, if they are all of one kind.
fn taken<'a, L>(
    layers: &[&'a BlrLinear],
    kind: impl Fn(&'a BlrLinear) -> Option<&'a L>,
) -> Option<Vec<&'a L>> {
    layers.iter().copied().map(kind).collect()
}

/// A factor of all layers, one behind the other along an axis: a weight of its own.
fn behind<L, const D: usize>(
    layers: &[&L],
    axis: usize,
    factor: impl Fn(&L) -> Tensor<D>,
) -> Tensor<D> {
    Tensor::cat(layers.iter().copied().map(factor).collect(), axis).detach()
}

impl BlastLinear {
    /// Number of layers that this one is joined of.
    pub(super) fn layers(&self) -> usize {
        self.u.dims()[0] / self.v.dims()[0]
    }

    /// Factors `u`, `s`, `v` and the bias of each layer that this one is joined of.
    pub(super) fn parts(&self) -> Vec<([Tensor<3>; 3], Option<Tensor<1>>)> {
        let (u, s, v) = (self.u.val(), self.s.val(), self.v.val());
        let ([_, block_out, rank], [blocks, _, _]) = (u.dims(), v.dims());
        let features = blocks * block_out;
        let part = |layer: usize| {
            let bias = self.bias.as_ref().map(Param::val);
            let factors = [
                u.clone().narrow(0, layer * blocks, blocks),
                s.clone().narrow(2, layer * rank, rank),
                v.clone().narrow(1, layer * rank, rank),
            ];
            let bias = bias.map(|bias| bias.narrow(0, layer * features, features));
            (factors, bias)
        };
        (0..self.layers()).map(part).collect()
    }
}
