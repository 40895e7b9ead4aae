//! The tensors of a checkpoint that the parameters of a model are.

use std::collections::HashMap;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::tensor::{DType, Tensor};

use crate::ModelError;

/// A tensor as a checkpoint holds it, widened to `f32`.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredTensor {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its elements, row-major.
    pub values: Vec<f32>,
}

/// Where the parameters of a model are stored, in the order in which a visitor meets them.
///
/// It belongs to the structure of a model, not to its weights: it serves for every model that was
/// built alike, whatever was trained since.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredParameters {
    parameters: Vec<Option<StoredParameter>>,
}

/// Where one parameter is stored.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredParameter {
    /// Names and shapes of the tensors that hold it, one below the other.
    parts: Vec<(String, Vec<usize>)>,
    /// Whether they hold the transposed matrix.
    transposed: bool,
}

impl StoredParameter {
    pub(crate) fn new(parts: Vec<(String, Vec<usize>)>, transposed: bool) -> Self {
        Self { parts, transposed }
    }

    /// One tensor of the shape of the parameter.
    pub(crate) fn same(name: &str, shape: &[usize]) -> Self {
        Self::new(vec![(name.to_string(), shape.to_vec())], false)
    }
}

impl StoredParameters {
    /// Puts what is known of the parameters of `model` into their order.
    pub(crate) fn in_order_of(
        model: &impl Module,
        known: &mut HashMap<ParamId, StoredParameter>,
    ) -> Self {
        let mut order = Order(Vec::new());
        model.visit(&mut order);
        let parameters = order.0.into_iter().map(|id| known.remove(&id)).collect();
        Self { parameters }
    }

    /// The names of all tensors.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let parts = self.parameters.iter().flatten().flat_map(|one| &one.parts);
        parts.map(|(name, _)| name.as_str())
    }

    /// The tensors of `model` as a checkpoint holds them, one after the other.
    ///
    /// # Errors
    ///
    /// [`ModelError::Read`] if the device fails; [`ModelError::OtherModel`] for a model that was
    /// built otherwise; those of `each`.
    pub fn read<E: From<ModelError>>(
        &self,
        model: &impl Module,
        each: impl FnMut(StoredTensor) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut reader = Reader {
            parameters: self.parameters.iter(),
            each,
            result: Ok(()),
        };
        model.visit(&mut reader);
        reader.result
    }
}

/// The ids of all parameters.
struct Order(Vec<ParamId>);

impl ModuleVisitor for Order {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.0.push(param.id);
    }
}

struct Reader<'a, F, E> {
    parameters: std::slice::Iter<'a, Option<StoredParameter>>,
    each: F,
    result: Result<(), E>,
}

impl<F, E> Reader<'_, F, E>
where
    F: FnMut(StoredTensor) -> Result<(), E>,
    E: From<ModelError>,
{
    fn take<const D: usize>(&mut self, tensor: Tensor<D>) -> Result<(), E> {
        let next = self.parameters.next().ok_or(ModelError::OtherModel)?;
        let Some(StoredParameter { parts, transposed }) = next else {
            return Ok(());
        };
        let tensor = match transposed {
            true => tensor.transpose(),
            false => tensor,
        };
        let values = tensor.cast(DType::F32).try_into_vec_as::<f32>();
        let mut values = values.map_err(ModelError::from)?.into_iter();
        for (name, shape) in parts {
            let length = shape.iter().product();
            let values: Vec<f32> = values.by_ref().take(length).collect();
            if values.len() != length {
                return Err(ModelError::OtherModel.into());
            }
            (self.each)(StoredTensor {
                name: name.clone(),
                shape: shape.clone(),
                values,
            })?;
        }
        Ok(())
    }
}

impl<F, E> ModuleVisitor for Reader<'_, F, E>
where
    F: FnMut(StoredTensor) -> Result<(), E>,
    E: From<ModelError>,
{
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if self.result.is_ok() {
            self.result = self.take(param.val());
        }
    }
}
