//! Burn code with exchangeable linear layers from an ONNX file.
//!
//! `onnx-to-blr MODEL.onnx OUT_DIR` writes `OUT_DIR/MODEL.rs` and its weights, `OUT_DIR/MODEL.bpk`.
//! Where burn-onnx cannot read a file, it says why in a panic.

mod exchangeable;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::{env, fs};

use burn_onnx::{LoadStrategy, ModelGen};
use quote::quote;
use syn::{Fields, File, Ident, Item, ItemStruct, Type};

use exchangeable::ExchangeableLinear;

fn main() -> ExitCode {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [model, out] = arguments.as_slice() else {
        eprintln!("usage: onnx-to-blr MODEL.onnx OUT_DIR");
        return ExitCode::from(2);
    };
    match convert(model, out) {
        Ok(layers) => {
            println!("{layers} linear layers can be exchanged");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {model}: {error}");
            ExitCode::from(2)
        }
    }
}

/// Writes code and weights, and returns the number of linear layers.
fn convert(model: &str, out: &str) -> Result<usize, Box<dyn Error>> {
    fs::File::open(model)?;
    ModelGen::new()
        .input(model)
        .out_dir(out)
        .load_strategy(LoadStrategy::None)
        .register_op_override(ExchangeableLinear)
        .run_from_cli();
    let name = Path::new(model).file_stem().unwrap_or_default();
    let path = Path::new(out).join(name).with_extension("rs");
    let code = fs::read_to_string(&path)?;
    let (accessors, layers) = accessors(&syn::parse_file(&code)?)?;
    fs::write(&path, code + &accessors)?;
    Ok(layers)
}

/// A method `linear_layers_mut` for each module of the generated code, and how many layers they give.
///
/// Large graphs are split into modules with fields `submodule1` and so on; names of layers are
/// unique over all of them.
fn accessors(file: &File) -> syn::Result<(String, usize)> {
    let modules = file.items.iter().filter_map(|item| match item {
        Item::Struct(module) => Some(module),
        _ => None,
    });
    let modules: Vec<_> = modules.collect();
    let mut text = String::new();
    let mut count = 0;
    for module in &modules {
        let layers = fields_of(module, |ty| ty == "BlrLinear");
        let parts = fields_of(module, |ty| modules.iter().any(|part| part.ident == *ty));
        count += layers.len();
        let names = layers.iter().map(|layer| layer.to_string());
        let name = &module.ident;
        let method = quote! {
            impl #name {
                /// The linear layers and their names, in the order of the graph.
                pub fn linear_layers_mut(&mut self) -> Vec<(&'static str, &mut BlrLinear)> {
                    let layers = Vec::from([#((#names, &mut self.#layers)),*]).into_iter();
                    #(let layers = layers.chain(self.#parts.linear_layers_mut());)*
                    layers.collect()
                }
            }
        };
        text.push('\n');
        text.push_str(&prettyplease::unparse(&syn::parse2(method)?));
    }
    Ok((text, count))
}

/// The fields of a module whose type has a name that is `wanted`.
fn fields_of(module: &ItemStruct, wanted: impl Fn(&Ident) -> bool) -> Vec<Ident> {
    let Fields::Named(fields) = &module.fields else {
        return Vec::new();
    };
    let chosen = fields.named.iter().filter(|field| match &field.ty {
        Type::Path(path) => path.path.get_ident().is_some_and(&wanted),
        _ => false,
    });
    chosen.filter_map(|field| field.ident.clone()).collect()
}
