//! Rotary position embeddings, [Su et al. 2021](https://arxiv.org/abs/2104.09864).

use std::f32::consts::PI;

use burn::module::Module;
use burn::tensor::{Device, FloatDType, Int, Tensor, TensorData};
use burn_blr::network::{Angles, beside};

use crate::ModelError;
use crate::checkpoint::ConfigKeys;

/// Base and scaling of the rotary frequencies.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RotaryConfig {
    /// Base of the frequencies: pair `i` of a head of width `d` turns by `theta^(-2i/d)` a token.
    pub theta: f64,
    /// How the frequencies are changed for contexts that are longer than those of pretraining.
    pub scaling: RotaryScaling,
}

/// A change to the frequencies, named by `rope_type` in a configuration.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum RotaryScaling {
    /// `default`: none.
    Default,
    /// `linear`: all are divided by `factor`.
    Linear {
        /// The divisor.
        factor: f64,
    },
    /// `llama3`: low frequencies are divided by `factor`, high ones are kept, and those between
    /// are mixed.
    Llama3 {
        /// The divisor.
        factor: f64,
        /// A wavelength above `original_max_position_embeddings` over this is divided.
        low_freq_factor: f64,
        /// A wavelength below `original_max_position_embeddings` over this is kept.
        high_freq_factor: f64,
        /// Longest context of pretraining, in tokens.
        original_max_position_embeddings: usize,
    },
}

impl RotaryConfig {
    /// Reads `rope_scaling` with `rope_theta` beside it, as `transformers` wrote them before
    /// version 5, or `rope_parameters`.
    pub(crate) fn from_keys(
        keys: &ConfigKeys<'_>,
        max_positions: usize,
    ) -> Result<Self, ModelError> {
        const THETA: &str = "rope_theta";
        // The order in which `transformers` looks.
        let section = match keys.section("rope_scaling")? {
            Some(section) => Some(section),
            None => keys.section("rope_parameters")?,
        };
        let theta = keys.positive(THETA, 10_000.0)?;
        let Some(section) = section else {
            return Ok(Self {
                theta,
                scaling: RotaryScaling::Default,
            });
        };
        for keys in [keys, &section] {
            const PARTIAL: &str = "partial_rotary_factor";
            if keys.positive(PARTIAL, 1.0)? != 1.0 {
                return Err(keys.invalid(PARTIAL, "1: a part of a head is not rotated"));
            }
        }
        let key = if section.holds("rope_type") {
            "rope_type"
        } else {
            "type" // of the first versions
        };
        let scaling = match section.text(key, "default")? {
            "default" => RotaryScaling::Default,
            "linear" => RotaryScaling::Linear {
                factor: section.required_positive("factor")?,
            },
            "llama3" => {
                let low_freq_factor = section.required_positive("low_freq_factor")?;
                let high_freq_factor = section.required_positive("high_freq_factor")?;
                if high_freq_factor <= low_freq_factor {
                    let expected = format!("more than low_freq_factor {low_freq_factor}");
                    return Err(section.invalid("high_freq_factor", expected));
                }
                RotaryScaling::Llama3 {
                    factor: section.required_positive("factor")?,
                    low_freq_factor,
                    high_freq_factor,
                    original_max_position_embeddings: section
                        .count("original_max_position_embeddings", max_positions)?,
                }
            }
            _ => return Err(section.invalid(key, "one of default, linear, llama3")),
        };
        Ok(Self {
            theta: section.positive(THETA, theta)?,
            scaling,
        })
    }

    /// What each pair of features of a head of width `width` turns by per token, in radians.
    ///
    /// In `f32`, step by step as `transformers` computes them, so that the angles of far positions
    /// are the same.
    pub fn frequencies(&self, width: usize) -> Vec<f32> {
        let pairs = (0..width / 2).map(|pair| {
            let exponent = (2 * pair) as f32 / width as f32;
            1.0 / (self.theta as f32).powf(exponent)
        });
        pairs.map(|frequency| self.scaled(frequency)).collect()
    }

    fn scaled(&self, frequency: f32) -> f32 {
        match self.scaling {
            RotaryScaling::Default => frequency,
            RotaryScaling::Linear { factor } => frequency / factor as f32,
            RotaryScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_max_position_embeddings,
            } => {
                let length = original_max_position_embeddings as f64;
                let wavelength = 2.0 * PI / frequency;
                if wavelength < (length / high_freq_factor) as f32 {
                    return frequency;
                }
                if wavelength > (length / low_freq_factor) as f32 {
                    return frequency / factor as f32;
                }
                let smooth = (length as f32 / wavelength - low_freq_factor as f32)
                    / (high_freq_factor - low_freq_factor) as f32;
                (1.0 - smooth) * frequency / factor as f32 + smooth * frequency
            }
        }
    }
}

/// The rotary frequencies on a device.
#[derive(Module, Debug)]
pub struct Rotary {
    /// Radians per token, `[head width / 2]`, `f32`. Not a parameter.
    frequencies: Tensor<1>,
}

impl Rotary {
    /// The frequencies of `config` for heads of `width` features, an even number.
    pub fn new(config: &RotaryConfig, width: usize, device: &Device) -> Self {
        let frequencies = config.frequencies(width);
        let data = TensorData::new(frequencies, [width / 2]);
        Self {
            frequencies: Tensor::from_data(data, (device, FloatDType::F32.into())),
        }
    }

    /// Cosine and sine of the angles at `positions [1 or batch, tokens]`, the same in every layer.
    pub(crate) fn angles(&self, positions: Tensor<2, Int>) -> Angles {
        let [batch, tokens] = positions.dims();
        let [pairs] = self.frequencies.dims();
        let positions = beside(positions, &self.frequencies);
        let positions = positions.cast(FloatDType::F32).reshape([batch, tokens, 1]);
        let frequencies = self.frequencies.clone().reshape([1, 1, pairs]);
        let angles = positions * frequencies; // [batch, tokens, pairs]
        Angles {
            cos: angles.clone().cos(),
            sin: angles.sin(),
        }
    }
}
