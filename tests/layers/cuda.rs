use burn::tensor::{DType, Device, Tensor};

use crate::case::values;
use crate::devices::cuda;

#[test]
fn overwriting_with_nan_reaches_every_tensor_of_a_buffer_and_no_other() {
    let Some(device) = cuda() else { return };
    for dtype in [DType::F32, DType::F16, DType::BF16] {
        let [tensor, other] =
            [1.0, 2.0].map(|value| Tensor::<2>::full([37, 5], value, &device).cast(dtype));
        let before = tensor.clone();
        assert!(burn_blr::cuda::overwrite_with_nan(tensor));
        let (found, _) = values(before);
        assert!(
            found.iter().all(|value| value.is_nan()),
            "{dtype:?}: {found:?}"
        );
        let (found, _) = values(other);
        assert!(found.iter().all(|&value| value == 2.0), "{dtype:?}");
    }
}

#[test]
fn a_tensor_on_the_cpu_is_left_as_it_is() {
    let tensor = Tensor::<1>::ones([4], &Device::flex());
    assert!(!burn_blr::cuda::overwrite_with_nan(tensor.clone()));
    assert_eq!(values(tensor).0, [1.0; 4]);
}
