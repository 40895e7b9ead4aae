//! A reader of safetensors files that shares no code with the command's.

use std::collections::BTreeMap;
use std::path::Path;

/// A tensor widened to `f64`.
pub struct Tensor {
    pub shape: Vec<usize>,
    pub values: Vec<f64>,
}

/// Reads all F32, F16 and BF16 tensors of a file by its specification: eight bytes of header
/// length, a JSON header, the data.
pub fn read(path: &Path) -> BTreeMap<String, Tensor> {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let data = &bytes[8 + length..];
    let mut tensors = BTreeMap::new();
    for (name, entry) in header.as_object().unwrap() {
        if name == "__metadata__" {
            continue;
        }
        let offset = |index: usize| entry["data_offsets"][index].as_u64().unwrap() as usize;
        let data = &data[offset(0)..offset(1)];
        let values: Vec<f64> = match entry["dtype"].as_str().unwrap() {
            "F32" => data
                .chunks_exact(4)
                .map(|x| f64::from(f32::from_le_bytes(x.try_into().unwrap())))
                .collect(),
            "F16" => data.chunks_exact(2).map(|x| half(x, 5, 10)).collect(),
            "BF16" => data.chunks_exact(2).map(|x| half(x, 8, 7)).collect(),
            _ => continue,
        };
        let shape: Vec<usize> = entry["shape"]
            .as_array()
            .unwrap()
            .iter()
            .map(|size| size.as_u64().unwrap() as usize)
            .collect();
        assert_eq!(values.len(), shape.iter().product::<usize>(), "{name}");
        tensors.insert(name.clone(), Tensor { shape, values });
    }
    tensors
}

/// A 16-bit number of the given field widths, by the definition of IEEE 754.
fn half(bytes: &[u8], exponent_bits: u32, mantissa_bits: u32) -> f64 {
    let bits = u16::from_le_bytes(bytes.try_into().unwrap());
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    let exponent = i32::from((bits >> mantissa_bits) & ((1 << exponent_bits) - 1));
    let mantissa = f64::from(bits & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
    let bias = (1 << (exponent_bits - 1)) - 1;
    assert!(exponent < (1 << exponent_bits) - 1, "not finite");
    match exponent {
        0 => sign * mantissa * 2f64.powi(1 - bias),
        _ => sign * (1.0 + mantissa) * 2f64.powi(exponent - bias),
    }
}

/// `W [out, in]` from the factors of layer `name`, by the table of structures in the README.
pub fn dense(tensors: &BTreeMap<String, Tensor>, name: &str, method: &str) -> Tensor {
    let factor = |suffix: &str| &tensors[&format!("{name}.{suffix}")];
    match method {
        "low-rank" => {
            let (u, v) = (factor("low_rank.u"), factor("low_rank.v"));
            let (out, rank, inputs) = (u.shape[0], u.shape[1], v.shape[1]);
            from_entries(out, inputs, |o, x| {
                (0..rank)
                    .map(|k| u.values[o * rank + k] * v.values[k * inputs + x])
                    .sum()
            })
        }
        "monarch" => {
            let (right, left) = (factor("monarch.right"), factor("monarch.left"));
            let (blocks, rank, width) = (right.shape[0], right.shape[1], right.shape[2]);
            let (height, part) = (left.shape[1], rank / blocks);
            from_entries(blocks * height, blocks * width, |o, x| {
                let (j, row, i, column) = (o / height, o % height, x / width, x % width);
                (0..part)
                    .map(|k| {
                        let left = left.values[(j * height + row) * rank + i * part + k];
                        left * right.values[(i * rank + j * part + k) * width + column]
                    })
                    .sum()
            })
        }
        "blast" => {
            let (u, s, v) = (factor("blast.u"), factor("blast.s"), factor("blast.v"));
            let (blocks, height, rank, width) = (u.shape[0], u.shape[1], u.shape[2], v.shape[2]);
            from_entries(blocks * height, blocks * width, |o, x| {
                let (j, row, i, column) = (o / height, o % height, x / width, x % width);
                (0..rank)
                    .map(|k| {
                        u.values[(j * height + row) * rank + k]
                            * s.values[(j * blocks + i) * rank + k]
                            * v.values[(i * rank + k) * width + column]
                    })
                    .sum()
            })
        }
        other => panic!("no method {other}"),
    }
}

fn from_entries(rows: usize, columns: usize, entry: impl Fn(usize, usize) -> f64) -> Tensor {
    let entries = (0..rows * columns).map(|index| entry(index / columns, index % columns));
    Tensor {
        shape: vec![rows, columns],
        values: entries.collect(),
    }
}
