//! Linear layers that can be exchanged, in the code that burn-onnx writes.

use burn_onnx::ext::quote::{format_ident, quote};
use burn_onnx::ext::{
    CodegenContext, Field, Imports, Node, NodeType, OpOverride, PackTensor, ProcessError,
    arg_to_ident, create_lazy_snapshot,
};

type TokenStream = burn_onnx::ext::proc_macro2::TokenStream;

/// Makes every linear layer of the generated model a `burn_blr::BlrLinear`, where burn-onnx would
/// write Burn's `Linear`.
///
/// It comes with the weights of the ONNX file and computes the same, as `BlrLinear::Dense`, until it
/// is assigned another structure.
pub struct ExchangeableLinear;

impl OpOverride for ExchangeableLinear {
    fn target(&self) -> NodeType {
        NodeType::Linear
    }

    fn register_imports(&self, imports: &mut Imports<'_>) {
        imports.register("burn::nn::LinearConfig");
        imports.register("burn::nn::LinearLayout");
        imports.register("burn_blr::BlrLinear");
    }

    fn field(&self, node: &Node) -> Result<Option<Field>, ProcessError> {
        let Node::Linear(node) = node else {
            return Ok(None);
        };
        let shape = node.inputs.get(1).and_then(|w| w.ty.static_shape_known());
        let Some([rows, columns]) = shape.as_deref() else {
            let reason = format!("layer {} has no weight of known shape", node.name);
            return Err(ProcessError::Custom(reason));
        };
        // From `Gemm` the weight is [out, in], from `MatMul` [in, out], which is Burn's order.
        let (inputs, outputs, layout) = if node.config.transpose_weight {
            (columns, rows, quote! { Col })
        } else {
            (rows, columns, quote! { Row })
        };
        let name = format_ident!("{}", node.name);
        let bias = node.inputs.len() > 2;
        let init = quote! {
            let #name = BlrLinear::Dense(
                LinearConfig::new(#inputs, #outputs)
                    .with_bias(#bias)
                    .with_layout(LinearLayout::#layout)
                    .init(device),
            );
        };
        Ok(Some(Field::new(&node.name, quote! { BlrLinear }, init)))
    }

    fn collect_snapshots(
        &self,
        node: &Node,
        field_name: &str,
    ) -> Result<Vec<PackTensor>, ProcessError> {
        // A module that is an enum puts the name of its variant into the path.
        let tensors = ["weight", "bias"]
            .into_iter()
            .zip(node.inputs().iter().skip(1));
        let tensors = tensors.filter_map(|(name, argument)| {
            create_lazy_snapshot(argument, &format!("{field_name}.Dense.{name}"))
        });
        Ok(tensors.collect())
    }

    fn forward(
        &self,
        node: &Node,
        context: &mut CodegenContext<'_, '_>,
    ) -> Result<TokenStream, ProcessError> {
        let (Some(input), Some(output)) = (node.inputs().first(), node.outputs().first()) else {
            let reason = format!("layer {} has no input or no output", node.name());
            return Err(ProcessError::Custom(reason));
        };
        let (input, output) = (context.arg(input), arg_to_ident(output));
        let name = format_ident!("{}", node.name());
        Ok(quote! { let #output = self.#name.forward(#input); })
    }
}
