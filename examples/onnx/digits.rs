// Generated from ONNX "digits.onnx" by burn-onnx
extern crate alloc;
use burn::prelude::*;
use burn::nn::LayerNorm;
use burn::nn::LayerNormConfig;
use burn::nn::LinearConfig;
use burn::nn::LinearLayout;
use burn::nn::PaddingConfig2d;
use burn::nn::conv::Conv2d;
use burn::nn::conv::Conv2dConfig;
use burn_blr::BlrLinear;


#[derive(Module, Debug)]
pub struct Model {
    constant1: burn::module::Param<Tensor<3>>,
    constant2: burn::module::Param<Tensor<3>>,
    constant34: burn::module::Param<Tensor<1>>,
    conv2d1: Conv2d,
    layernormalization1: LayerNorm,
    linear1: BlrLinear,
    linear2: BlrLinear,
    layernormalization2: LayerNorm,
    linear3: BlrLinear,
    linear4: BlrLinear,
    layernormalization3: LayerNorm,
    linear5: BlrLinear,
    linear6: BlrLinear,
    layernormalization4: LayerNorm,
    linear7: BlrLinear,
    linear8: BlrLinear,
    layernormalization5: LayerNorm,
    linear9: BlrLinear,
    linear10: BlrLinear,
    layernormalization6: LayerNorm,
    linear11: BlrLinear,
    linear12: BlrLinear,
    layernormalization7: LayerNorm,
    linear13: BlrLinear,
    #[module(skip)]
    device: Device,
}

impl Model {
    #[allow(unused_variables)]
    pub fn new(device: &Device) -> Self {
        let constant1: burn::module::Param<Tensor<3>> = burn::module::Param::uninitialized(
            burn::module::ParamId::new(),
            move |device, _require_grad| Tensor::<
                3,
            >::zeros([1, 1, 48], (device, burn::tensor::DType::F32)),
            device.clone(),
            false,
            [1, 1, 48].into(),
        );
        let constant2: burn::module::Param<Tensor<3>> = burn::module::Param::uninitialized(
            burn::module::ParamId::new(),
            move |device, _require_grad| Tensor::<
                3,
            >::zeros([1, 17, 48], (device, burn::tensor::DType::F32)),
            device.clone(),
            false,
            [1, 17, 48].into(),
        );
        let constant34: burn::module::Param<Tensor<1>> = burn::module::Param::uninitialized(
            burn::module::ParamId::new(),
            move |device, _require_grad| Tensor::<
                1,
            >::zeros([1], (device, burn::tensor::DType::F32)),
            device.clone(),
            false,
            [1].into(),
        );
        let conv2d1 = Conv2dConfig::new([1, 48], [2, 2])
            .with_stride([2, 2])
            .with_padding(PaddingConfig2d::Valid)
            .with_dilation([1, 1])
            .with_groups(1)
            .with_bias(true)
            .init(device);
        let layernormalization1 = LayerNormConfig::new(48)
            .with_epsilon(0.0000009999999974752427f64)
            .with_bias(true)
            .init(device);
        let linear1 = BlrLinear::Dense(
            LinearConfig::new(48usize, 144usize)
                .with_bias(true)
                .with_layout(LinearLayout::Row)
                .init(device),
        );
        let linear2 = BlrLinear::Dense(
            LinearConfig::new(48usize, 48usize)
                .with_bias(true)
                .with_layout(LinearLayout::Row)
                .init(device),
        );
        let layernormalization2 = LayerNormConfig::new(48)
            .with_epsilon(0.0000009999999974752427f64)
            .with_bias(true)
            .init(device);
        let linear3 = BlrLinear::Dense(
            LinearConfig::new(48usize, 192usize)
                .with_bias(true)
                .with_layout(LinearLayout::Row)
                .init(device),
        );
        let linear4 = BlrLinear::Dense(
            LinearConfig::new(192usize, 48usize)
                .with_bias(true)
                .with_layout(LinearLayout::Row)
                .init(device),
        );
        let layernormalization3 = LayerNormConfig::new(48)
            .with_epsilon(0.0000009999999974752427f64)
            .with_bias(true)
            .init(device);
        let linear5 = BlrLinear::Dense(
            LinearConfig::new(48usize, 144usize)
                .with_bias(true)
                .with_layout(LinearLayout::Row)
                .init(device),
        );
        let linear6 = BlrLinear::Dense(
            LinearConfig::new(48usize, 48usize)
                .with_bias(true)
                .with_layout(LinearLayout::Row)
                .init(device),
        );
        let layernormalization4 = LayerNormConfig::new(48)
            .with_epsilon(0.0000009999999974752427f64)
            .with_bias(true)
            .init(device);
        let linear7 = BlrLinear::Dense(
            LinearConfig::new(48usize, 192usize)
                .with_bias(true)
                .with_layout(LinearLayout::Row)
                .init(device),
        );
        let linear8 = BlrLinear::Dense(
            LinearConfig::new(192usize, 48usize)
                .with_bias(true)
                .with_layout(LinearLayout::Row)
                .init(device),
        );
        let layernormalization5 = LayerNormConfig::new(48)
            .with_epsilon(0.0000009999999974752427f64)
            .with_bias(true)
            .init(device);
        let linear9 = BlrLinear::Dense(
            LinearConfig::new(48usize, 144usize)
                .with_bias(true)
                .with_layout(LinearLayout::Row)
                .init(device),
        );
        let linear10 = BlrLinear::Dense(
            LinearConfig::new(48usize, 48usize)
                .with_bias(true)
                .with_layout(LinearLayout::Row)
                .init(device),
        );
        let layernormalization6 = LayerNormConfig::new(48)
            .with_epsilon(0.0000009999999974752427f64)
            .with_bias(true)
            .init(device);
        let linear11 = BlrLinear::Dense(
            LinearConfig::new(48usize, 192usize)
                .with_bias(true)
                .with_layout(LinearLayout::Row)
                .init(device),
        );
        let linear12 = BlrLinear::Dense(
            LinearConfig::new(192usize, 48usize)
                .with_bias(true)
                .with_layout(LinearLayout::Row)
                .init(device),
        );
        let layernormalization7 = LayerNormConfig::new(48)
            .with_epsilon(0.0000009999999974752427f64)
            .with_bias(true)
            .init(device);
        let linear13 = BlrLinear::Dense(
            LinearConfig::new(48usize, 10usize)
                .with_bias(true)
                .with_layout(LinearLayout::Col)
                .init(device),
        );
        Self {
            constant1,
            constant2,
            constant34,
            conv2d1,
            layernormalization1,
            linear1,
            linear2,
            layernormalization2,
            linear3,
            linear4,
            layernormalization3,
            linear5,
            linear6,
            layernormalization4,
            linear7,
            linear8,
            layernormalization5,
            linear9,
            linear10,
            layernormalization6,
            linear11,
            linear12,
            layernormalization7,
            linear13,
            device: device.clone(),
        }
    }

    #[allow(clippy::let_and_return, clippy::approx_constant)]
    pub fn forward(&self, pixel_values: Tensor<4>) -> Tensor<2> {
        let constant1_out1 = self.constant1.val();
        let constant2_out1 = self.constant2.val();
        let constant34_out1 = self.constant34.val();
        let constant47_out1: [i64; 1] = [1i64];
        let constant53_out1: [i64; 1] = [-1i64];
        let shape1_out1: [i64; 1] = {
            let axes = &pixel_values.clone().dims()[0..1];
            let mut output = [0i64; 1];
            for i in 0..1 {
                output[i] = axes[i] as i64;
            }
            output
        };
        let conv2d1_out1 = self.conv2d1.forward(pixel_values);
        let reshape1_out1 = conv2d1_out1.reshape([-1, 48, 16]);
        let transpose1_out1 = reshape1_out1.permute([0, 2, 1]);
        let concat1_out1: [i64; 3usize] = [
            &shape1_out1[..],
            &constant47_out1[..],
            &constant47_out1[..],
        ]
            .concat()
            .try_into()
            .unwrap();
        let expand1_out1 = {
            let onnx_shape: [i64; 3usize] = concat1_out1;
            let input_dims = constant1_out1.dims();
            let mut shape = onnx_shape;
            #[allow(clippy::needless_range_loop)]
            for i in 0..3usize {
                let dim_offset = 3usize - 3usize + i;
                if shape[dim_offset] == 1 && input_dims[i] > 1 {
                    shape[dim_offset] = input_dims[i] as i64;
                }
            }
            constant1_out1.expand(shape)
        };
        let concat2_out1 = burn::tensor::Tensor::cat(
            [expand1_out1, transpose1_out1].into(),
            1,
        );
        let add1_out1 = concat2_out1.add(constant2_out1);
        let layernormalization1_out1 = {
            let dtype = add1_out1.clone().dtype();
            self.layernormalization1
                .forward(add1_out1.clone().cast(burn::tensor::DType::F32))
                .cast(dtype)
        };
        let linear1_out1 = self.linear1.forward(layernormalization1_out1);
        let reshape2_out1 = linear1_out1.reshape([-1, 17, 3, 3, 16]);
        let transpose2_out1 = reshape2_out1.permute([2, 0, 3, 1, 4]);
        let slice1_out1 = transpose2_out1.clone().slice(s![0..1, .., .., .., ..]);
        let squeeze1_out1 = slice1_out1.squeeze_dims::<4>(&[0]);
        let slice2_out1 = transpose2_out1.clone().slice(s![1..2, .., .., .., ..]);
        let squeeze2_out1 = slice2_out1.squeeze_dims::<4>(&[0]);
        let slice3_out1 = transpose2_out1.slice(s![2..3, .., .., .., ..]);
        let squeeze3_out1 = slice3_out1.squeeze_dims::<4>(&[0]);
        let shape2_out1: [i64; 4] = {
            let axes = &squeeze2_out1.clone().dims()[0..4];
            let mut output = [0i64; 4];
            for i in 0..4 {
                output[i] = axes[i] as i64;
            }
            output
        };
        let slice4_out1: [i64; 1] = shape2_out1[3..4].try_into().unwrap();
        let slice5_out1: [i64; 1] = shape2_out1[2..3].try_into().unwrap();
        let slice6_out1: [i64; 2] = shape2_out1[0..2].try_into().unwrap();
        let concat3_out1: [i64; 3usize] = [
            &constant53_out1[..],
            &slice5_out1[..],
            &slice4_out1[..],
        ]
            .concat()
            .try_into()
            .unwrap();
        let reshape3_out1 = squeeze2_out1.reshape(concat3_out1);
        let transpose3_out1 = reshape3_out1.permute([0, 2, 1]);
        let concat4_out1: [i64; 4usize] = [
            &slice6_out1[..],
            &slice4_out1[..],
            &slice5_out1[..],
        ]
            .concat()
            .try_into()
            .unwrap();
        let reshape4_out1 = transpose3_out1.reshape(concat4_out1);
        let mul1_out1 = squeeze1_out1
            .mul((constant34_out1.clone()).unsqueeze_dims(&[0isize, 1isize, 2isize]));
        let mul2_out1 = reshape4_out1
            .mul((constant34_out1.clone()).unsqueeze_dims(&[0isize, 1isize, 2isize]));
        let matmul2_out1 = mul1_out1.matmul(mul2_out1);
        let softmax1_out1 = burn::tensor::activation::softmax(matmul2_out1, 3);
        let matmul3_out1 = softmax1_out1.matmul(squeeze3_out1);
        let transpose4_out1 = matmul3_out1.permute([0, 2, 1, 3]);
        let reshape5_out1 = transpose4_out1.reshape([-1, 17, 48]);
        let linear2_out1 = self.linear2.forward(reshape5_out1);
        let add2_out1 = add1_out1.add(linear2_out1);
        let layernormalization2_out1 = {
            let dtype = add2_out1.clone().dtype();
            self.layernormalization2
                .forward(add2_out1.clone().cast(burn::tensor::DType::F32))
                .cast(dtype)
        };
        let linear3_out1 = self.linear3.forward(layernormalization2_out1);
        let gelu1_out1 = burn::tensor::activation::gelu(linear3_out1);
        let linear4_out1 = self.linear4.forward(gelu1_out1);
        let add3_out1 = add2_out1.add(linear4_out1);
        let layernormalization3_out1 = {
            let dtype = add3_out1.clone().dtype();
            self.layernormalization3
                .forward(add3_out1.clone().cast(burn::tensor::DType::F32))
                .cast(dtype)
        };
        let linear5_out1 = self.linear5.forward(layernormalization3_out1);
        let reshape6_out1 = linear5_out1.reshape([-1, 17, 3, 3, 16]);
        let transpose5_out1 = reshape6_out1.permute([2, 0, 3, 1, 4]);
        let slice7_out1 = transpose5_out1.clone().slice(s![0..1, .., .., .., ..]);
        let squeeze4_out1 = slice7_out1.squeeze_dims::<4>(&[0]);
        let slice8_out1 = transpose5_out1.clone().slice(s![1..2, .., .., .., ..]);
        let squeeze5_out1 = slice8_out1.squeeze_dims::<4>(&[0]);
        let slice9_out1 = transpose5_out1.slice(s![2..3, .., .., .., ..]);
        let squeeze6_out1 = slice9_out1.squeeze_dims::<4>(&[0]);
        let shape3_out1: [i64; 4] = {
            let axes = &squeeze5_out1.clone().dims()[0..4];
            let mut output = [0i64; 4];
            for i in 0..4 {
                output[i] = axes[i] as i64;
            }
            output
        };
        let slice10_out1: [i64; 1] = shape3_out1[3..4].try_into().unwrap();
        let slice11_out1: [i64; 1] = shape3_out1[2..3].try_into().unwrap();
        let slice12_out1: [i64; 2] = shape3_out1[0..2].try_into().unwrap();
        let concat5_out1: [i64; 3usize] = [
            &constant53_out1[..],
            &slice11_out1[..],
            &slice10_out1[..],
        ]
            .concat()
            .try_into()
            .unwrap();
        let reshape7_out1 = squeeze5_out1.reshape(concat5_out1);
        let transpose6_out1 = reshape7_out1.permute([0, 2, 1]);
        let concat6_out1: [i64; 4usize] = [
            &slice12_out1[..],
            &slice10_out1[..],
            &slice11_out1[..],
        ]
            .concat()
            .try_into()
            .unwrap();
        let reshape8_out1 = transpose6_out1.reshape(concat6_out1);
        let mul3_out1 = squeeze4_out1
            .mul((constant34_out1.clone()).unsqueeze_dims(&[0isize, 1isize, 2isize]));
        let mul4_out1 = reshape8_out1
            .mul((constant34_out1.clone()).unsqueeze_dims(&[0isize, 1isize, 2isize]));
        let matmul8_out1 = mul3_out1.matmul(mul4_out1);
        let softmax2_out1 = burn::tensor::activation::softmax(matmul8_out1, 3);
        let matmul9_out1 = softmax2_out1.matmul(squeeze6_out1);
        let transpose7_out1 = matmul9_out1.permute([0, 2, 1, 3]);
        let reshape9_out1 = transpose7_out1.reshape([-1, 17, 48]);
        let linear6_out1 = self.linear6.forward(reshape9_out1);
        let add4_out1 = add3_out1.add(linear6_out1);
        let layernormalization4_out1 = {
            let dtype = add4_out1.clone().dtype();
            self.layernormalization4
                .forward(add4_out1.clone().cast(burn::tensor::DType::F32))
                .cast(dtype)
        };
        let linear7_out1 = self.linear7.forward(layernormalization4_out1);
        let gelu2_out1 = burn::tensor::activation::gelu(linear7_out1);
        let linear8_out1 = self.linear8.forward(gelu2_out1);
        let add5_out1 = add4_out1.add(linear8_out1);
        let layernormalization5_out1 = {
            let dtype = add5_out1.clone().dtype();
            self.layernormalization5
                .forward(add5_out1.clone().cast(burn::tensor::DType::F32))
                .cast(dtype)
        };
        let linear9_out1 = self.linear9.forward(layernormalization5_out1);
        let reshape10_out1 = linear9_out1.reshape([-1, 17, 3, 3, 16]);
        let transpose8_out1 = reshape10_out1.permute([2, 0, 3, 1, 4]);
        let slice13_out1 = transpose8_out1.clone().slice(s![0..1, .., .., .., ..]);
        let squeeze7_out1 = slice13_out1.squeeze_dims::<4>(&[0]);
        let slice14_out1 = transpose8_out1.clone().slice(s![1..2, .., .., .., ..]);
        let squeeze8_out1 = slice14_out1.squeeze_dims::<4>(&[0]);
        let slice15_out1 = transpose8_out1.slice(s![2..3, .., .., .., ..]);
        let squeeze9_out1 = slice15_out1.squeeze_dims::<4>(&[0]);
        let shape4_out1: [i64; 4] = {
            let axes = &squeeze8_out1.clone().dims()[0..4];
            let mut output = [0i64; 4];
            for i in 0..4 {
                output[i] = axes[i] as i64;
            }
            output
        };
        let slice16_out1: [i64; 1] = shape4_out1[3..4].try_into().unwrap();
        let slice17_out1: [i64; 1] = shape4_out1[2..3].try_into().unwrap();
        let slice18_out1: [i64; 2] = shape4_out1[0..2].try_into().unwrap();
        let concat7_out1: [i64; 3usize] = [
            &constant53_out1[..],
            &slice17_out1[..],
            &slice16_out1[..],
        ]
            .concat()
            .try_into()
            .unwrap();
        let reshape11_out1 = squeeze8_out1.reshape(concat7_out1);
        let transpose9_out1 = reshape11_out1.permute([0, 2, 1]);
        let concat8_out1: [i64; 4usize] = [
            &slice18_out1[..],
            &slice16_out1[..],
            &slice17_out1[..],
        ]
            .concat()
            .try_into()
            .unwrap();
        let reshape12_out1 = transpose9_out1.reshape(concat8_out1);
        let mul5_out1 = squeeze7_out1
            .mul((constant34_out1.clone()).unsqueeze_dims(&[0isize, 1isize, 2isize]));
        let mul6_out1 = reshape12_out1
            .mul((constant34_out1).unsqueeze_dims(&[0isize, 1isize, 2isize]));
        let matmul14_out1 = mul5_out1.matmul(mul6_out1);
        let softmax3_out1 = burn::tensor::activation::softmax(matmul14_out1, 3);
        let matmul15_out1 = softmax3_out1.matmul(squeeze9_out1);
        let transpose10_out1 = matmul15_out1.permute([0, 2, 1, 3]);
        let reshape13_out1 = transpose10_out1.reshape([-1, 17, 48]);
        let linear10_out1 = self.linear10.forward(reshape13_out1);
        let add6_out1 = add5_out1.add(linear10_out1);
        let layernormalization6_out1 = {
            let dtype = add6_out1.clone().dtype();
            self.layernormalization6
                .forward(add6_out1.clone().cast(burn::tensor::DType::F32))
                .cast(dtype)
        };
        let linear11_out1 = self.linear11.forward(layernormalization6_out1);
        let gelu3_out1 = burn::tensor::activation::gelu(linear11_out1);
        let linear12_out1 = self.linear12.forward(gelu3_out1);
        let add7_out1 = add6_out1.add(linear12_out1);
        let layernormalization7_out1 = {
            let dtype = add7_out1.dtype();
            self.layernormalization7
                .forward(add7_out1.cast(burn::tensor::DType::F32))
                .cast(dtype)
        };
        let gather1_out1 = {
            let sliced = layernormalization7_out1.slice(s![.., 0, ..]);
            sliced.squeeze_dim::<2usize>(1)
        };
        let linear13_out1 = self.linear13.forward(gather1_out1);
        linear13_out1
    }
}

impl Model {
    /// The linear layers and their names, in the order of the graph.
    pub fn linear_layers_mut(&mut self) -> Vec<(&'static str, &mut BlrLinear)> {
        let layers = Vec::from([
                ("linear1", &mut self.linear1),
                ("linear2", &mut self.linear2),
                ("linear3", &mut self.linear3),
                ("linear4", &mut self.linear4),
                ("linear5", &mut self.linear5),
                ("linear6", &mut self.linear6),
                ("linear7", &mut self.linear7),
                ("linear8", &mut self.linear8),
                ("linear9", &mut self.linear9),
                ("linear10", &mut self.linear10),
                ("linear11", &mut self.linear11),
                ("linear12", &mut self.linear12),
                ("linear13", &mut self.linear13),
            ])
            .into_iter();
        layers.collect()
    }
}
