//! A model block by block: what passes between the blocks, and the linear layers in them.

use std::fmt::Debug;

use burn::module::ParamId;
use burn::tensor::{FloatDType, Int, Tensor};
use burn_blr::BlrLinear;

use burn_blr::network::{Angles, VisibleKeys};

use crate::common::{Placement, ResidualStream};
use crate::{
    AnyLanguageModel, Context, Gpt2, LanguageModel, Llama, ModelError, QueryKeyValue,
    TransformerBlock, Vit,
};

/// What passes from one block to the next for a batch.
#[derive(Debug, Clone)]
pub struct BlockState {
    /// `[batch, tokens, features]`.
    x: Tensor<3>,
    visible: VisibleKeys,
    angles: Option<Angles>,
}

impl BlockState {
    /// The hidden state, `[batch, tokens, features]`.
    pub fn hidden(&self) -> &Tensor<3> {
        &self.x
    }
}

/// A model that is a row of blocks of attention and MLP, which hold its linear layers.
pub trait BlockModel: Debug {
    /// The blocks, first to last.
    fn blocks(&self) -> &[TransformerBlock];

    /// The blocks, first to last.
    fn blocks_mut(&mut self) -> &mut [TransformerBlock];

    /// Takes a batch through block `n`.
    fn apply_block(&self, n: usize, state: &BlockState) -> BlockState {
        let mut stream = ResidualStream::new(state.x.clone());
        self.blocks()[n].forward(&mut stream, &state.visible, state.angles.as_ref(), None);
        BlockState {
            x: stream.finish(),
            ..state.clone()
        }
    }

    /// What the model makes of a batch behind its last block, in `f32`: hidden states before the head
    /// of a language model `[batch · tokens, features]`, scores of a classifier `[batch, labels]`.
    fn finish(&self, state: &BlockState) -> Tensor<2>;

    /// The hidden state behind each block, `[batch, tokens, features]`, and what [`Self::finish`] makes
    /// of the last.
    fn observe(&self, mut state: BlockState) -> (Vec<Tensor<3>>, Tensor<2>) {
        let mut hidden = Vec::with_capacity(self.blocks().len());
        for block in 0..self.blocks().len() {
            state = self.apply_block(block, &state);
            hidden.push(state.x.clone());
        }
        (hidden, self.finish(&state))
    }

    /// A copy that shares the weights.
    fn copy(&self) -> Box<dyn BlockModel>;

    /// The layers of each block that see the same, in the order of the model.
    ///
    /// One after the other these are the layers that [`linear_layers`](crate::linear_layers) lists for
    /// the checkpoint.
    fn stages(&self) -> Vec<[Vec<&BlrLinear>; 4]> {
        let blocks = self.blocks().iter();
        blocks
            .map(|TransformerBlock { attention, mlp, .. }| {
                let inner = mlp.gate.iter().chain([&mlp.fc]).collect();
                let qkv = attention.qkv.layers();
                [qkv, vec![&attention.proj], inner, vec![&mlp.proj]]
            })
            .collect()
    }

    /// Puts `layer` where the layers with the ids `replaced` are: one, or query, key and value, which
    /// become one. Their biases stay.
    ///
    /// # Errors
    ///
    /// [`ModelError::Blr`] if a bias does not fit the layer; [`ModelError::UnknownLayer`] if there are
    /// no such layers.
    fn replace_linear(&mut self, replaced: &[ParamId], layer: BlrLinear) -> Result<(), ModelError> {
        for TransformerBlock { attention, mlp, .. } in self.blocks_mut() {
            let parts = attention.qkv.layers();
            let ids = parts.iter().map(|part| part.id());
            if ids.eq(replaced.iter().copied()) {
                let biases: Option<Vec<_>> = parts.iter().map(|part| part.bias()).collect();
                let bias = biases.map(|biases| Tensor::cat(biases, 0));
                attention.qkv = QueryKeyValue::Joined(layer.with_bias(bias)?);
                return Ok(());
            }
            let [id] = replaced else { continue };
            let mut places = vec![&mut attention.proj, &mut mlp.fc, &mut mlp.proj];
            places.extend(&mut mlp.gate);
            if let QueryKeyValue::Separate(separate) = &mut attention.qkv {
                places.extend([&mut separate.query, &mut separate.key, &mut separate.value]);
            }
            if let Some(place) = places.into_iter().find(|place| place.id() == *id) {
                *place = layer.with_bias(place.bias())?;
                return Ok(());
            }
        }
        Err(ModelError::UnknownLayer)
    }
}

impl BlockModel for Gpt2 {
    fn blocks(&self) -> &[TransformerBlock] {
        &self.blocks
    }

    fn blocks_mut(&mut self) -> &mut [TransformerBlock] {
        &mut self.blocks
    }

    fn finish(&self, state: &BlockState) -> Tensor<2> {
        rows(self.ln_f.forward(state.x.clone()))
    }

    fn copy(&self) -> Box<dyn BlockModel> {
        Box::new(self.clone())
    }
}

impl BlockModel for Llama {
    fn blocks(&self) -> &[TransformerBlock] {
        &self.blocks
    }

    fn blocks_mut(&mut self) -> &mut [TransformerBlock] {
        &mut self.blocks
    }

    fn finish(&self, state: &BlockState) -> Tensor<2> {
        rows(self.norm.forward(state.x.clone()))
    }

    fn copy(&self) -> Box<dyn BlockModel> {
        Box::new(self.clone())
    }
}

impl BlockModel for Vit {
    fn blocks(&self) -> &[TransformerBlock] {
        &self.blocks
    }

    fn blocks_mut(&mut self) -> &mut [TransformerBlock] {
        &mut self.blocks
    }

    fn finish(&self, state: &BlockState) -> Tensor<2> {
        self.scores(state.x.clone())
    }

    fn copy(&self) -> Box<dyn BlockModel> {
        Box::new(self.clone())
    }
}

/// `[batch, tokens, features]` as `[batch · tokens, features]`, in `f32`.
fn rows(x: Tensor<3>) -> Tensor<2> {
    let [batch, tokens, features] = x.dims();
    x.reshape([batch * tokens, features]).cast(FloatDType::F32)
}

impl AnyLanguageModel {
    /// The model as a row of blocks, and each batch of token ids `[batch, tokens]` before the first.
    ///
    /// # Errors
    ///
    /// [`ModelError::TooManyTokens`] and [`ModelError::TooFewTokens`].
    pub fn into_blocks(
        self,
        batches: impl IntoIterator<Item = Tensor<2, Int>>,
    ) -> Result<(Box<dyn BlockModel>, Vec<BlockState>), ModelError> {
        let batches = batches.into_iter();
        Ok(match self {
            Self::Gpt2(model) => {
                let states = batches.map(|ids| gpt2_state(&model, ids));
                let states = states.collect::<Result<_, _>>()?;
                (Box::new(model), states)
            }
            Self::Llama(model) => {
                let states = batches.map(|ids| llama_state(&model, ids));
                let states = states.collect::<Result<_, _>>()?;
                (Box::new(model), states)
            }
        })
    }
}

pub(crate) fn gpt2_state(model: &Gpt2, ids: Tensor<2, Int>) -> Result<BlockState, ModelError> {
    let (layers, positions) = (model.layers(), &model.positions);
    let placement = Placement::new(&ids, Context::Empty, layers, model.max_tokens(), positions)?;
    let positions = model.position_embedding.forward(placement.positions());
    Ok(BlockState {
        x: model.token_embedding.forward(ids) + positions,
        visible: placement.visible(),
        angles: None,
    })
}

pub(crate) fn llama_state(model: &Llama, ids: Tensor<2, Int>) -> Result<BlockState, ModelError> {
    let (layers, positions) = (model.layers(), &model.positions);
    let placement = Placement::new(&ids, Context::Empty, layers, model.max_tokens(), positions)?;
    Ok(BlockState {
        x: model.embed_tokens.forward(ids),
        visible: placement.visible(),
        angles: Some(model.rotary.angles(placement.positions())),
    })
}

pub(crate) fn vit_state(model: &Vit, pixels: Tensor<4>) -> Result<BlockState, ModelError> {
    Ok(BlockState {
        x: model.tokens(pixels)?,
        visible: VisibleKeys::All,
        angles: None,
    })
}

impl Vit {
    /// The model as a row of blocks, and each batch of images `[batch, num_channels, height, width]`
    /// before the first.
    ///
    /// # Errors
    ///
    /// [`ModelError::PixelShape`] as [`Vit::forward`].
    pub fn into_blocks(
        self,
        batches: impl IntoIterator<Item = Tensor<4>>,
    ) -> Result<(Box<dyn BlockModel>, Vec<BlockState>), ModelError> {
        let states = batches.into_iter().map(|pixels| vit_state(&self, pixels));
        let states = states.collect::<Result<_, ModelError>>()?;
        Ok((Box::new(self), states))
    }
}
