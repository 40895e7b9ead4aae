//! Sizes that nobody thought of.

use burn::tensor::{DType, Device};
use burn_blr::{OutputOrder, Structure};
use proptest::prelude::*;

use crate::case::{Case, Operand, relative_error, values};

fn cases() -> impl Strategy<Value = (Case, u64)> {
    let sizes = (1usize..7, 1usize..9, 1usize..9, 1usize..6, 1usize..40);
    (sizes, 0usize..4, any::<bool>(), any::<u64>()).prop_map(
        |((blocks, block_in, block_out, part, tokens), kind, biased, seed)| {
            let (in_features, out_features) = (blocks * block_in, blocks * block_out);
            let monarch = |order| Structure::Monarch {
                blocks,
                rank: blocks * part,
                order,
            };
            let structure = match kind {
                0 => Structure::LowRank { rank: part },
                1 => monarch(OutputOrder::Contiguous),
                2 => monarch(OutputOrder::Interleaved),
                _ => Structure::Blast { blocks, rank: part },
            };
            (
                Case {
                    structure,
                    in_features,
                    out_features,
                    tokens,
                    biased,
                },
                seed,
            )
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    #[test]
    fn products_of_any_size_match_the_reference((case, seed) in cases()) {
        let device = Device::flex();
        let operands = case.operands(seed);
        let expected = case.reference(&operands);
        let operands: Vec<Operand> =
            operands.iter().map(|values| Operand::new(values, &device, DType::F64)).collect();
        let found = values(case.operation(&operands)).0;
        prop_assert!(relative_error(&found, &expected) < 1e-12, "{case:?}");
    }
}
