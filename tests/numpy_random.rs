//! The generator of `harness/numpy_random.rs` against numbers that numpy 2.3.5 (x86-64) produced.
//!
//! A draw here is `numpy.random.default_rng(seed).standard_normal(1 << 20, dtype=numpy.float32)`, long
//! enough that every branch of the ziggurat is taken hundreds of times.

#[path = "harness/numpy_random.rs"]
mod numpy_random;

use numpy_random::{NumpyRng, spectrum_matrix};

/// The `float32` nearest to where the ziggurat ends and the tail begins.
const TAIL: f32 = 3.654_152_9;

struct Draw {
    seed: u64,
    first: [u32; 4],
    last: [u32; 2],
    /// FNV-1a over the bits of all values outside the tail, a 32-bit word at a time.
    bits: u64,
    /// Sum of all values, in `f64`.
    sum: f64,
    /// How many values lie in the tail.
    tail: usize,
    largest: f64,
}

const DRAWS: [Draw; 6] = [
    Draw {
        seed: 0,
        first: [0x3f8f_0e3d, 0xbfb1_8d4f, 0xbeda_6798, 0xbf4d_b7e5],
        last: [0xbec0_f4e8, 0x3f18_a03b],
        bits: 0xe7e4_5827_d66f_6c03,
        sum: 1258.550926,
        tail: 255,
        largest: 4.803665,
    },
    Draw {
        seed: 1,
        first: [0x3fdd_5344, 0xbfb6_d790, 0x3f83_8d24, 0x3ff0_e7a4],
        last: [0x3f1a_1c33, 0x3f89_c9c9],
        bits: 0xc92e_cc5d_d84a_e85a,
        sum: -2326.612713,
        tail: 265,
        largest: 4.761719,
    },
    Draw {
        seed: 7,
        first: [0x3fc2_cfe4, 0xbf92_720f, 0x3f93_387f, 0xbfe4_6f84],
        last: [0xbe88_32ba, 0x3dd2_7857],
        bits: 0x508f_34f1_e4cb_2f20,
        sum: -63.159827,
        tail: 289,
        largest: 4.729030,
    },
    Draw {
        seed: 123456789,
        first: [0xbf75_dd02, 0x3d44_93f0, 0x3fa1_8010, 0x3fd8_19ef],
        last: [0xbec0_e319, 0x3f5e_48a0],
        bits: 0xd947_db58_8e8d_bff7,
        sum: 1286.469502,
        tail: 273,
        largest: 5.087783,
    },
    Draw {
        seed: 4294967301,
        first: [0x3e95_0b6c, 0x3fcb_8eea, 0xbf9a_f8c9, 0x3ec9_22dd],
        last: [0xbdfd_29a6, 0xbf8e_686b],
        bits: 0x95b9_7ca1_775e_29b1,
        sum: -2113.204243,
        tail: 244,
        largest: 4.805904,
    },
    Draw {
        seed: 18446744073709551615,
        first: [0x3f65_dc8a, 0x3f82_1d8b, 0xbf9a_d4e3, 0xc01a_9230],
        last: [0xbf5c_cf7c, 0x3e87_83a9],
        bits: 0x1604_df15_5fa7_c83c,
        sum: 1000.782718,
        tail: 258,
        largest: 4.704035,
    },
];

fn bits_of(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

fn fnv(values: impl Iterator<Item = f32>) -> u64 {
    values.fold(0xcbf2_9ce4_8422_2325, |hash, x| {
        (hash ^ u64::from(x.to_bits())).wrapping_mul(0x100_0000_01b3)
    })
}

#[test]
fn a_million_normal_values_equal_those_of_numpy_for_every_seed() {
    for draw in &DRAWS {
        let seed = draw.seed;
        let values = NumpyRng::new(seed).standard_normal_f32(1 << 20);
        assert_eq!(
            bits_of(&values[..4]),
            draw.first,
            "first values of seed {seed}"
        );
        assert_eq!(
            bits_of(&values[values.len() - 2..]),
            draw.last,
            "last values of seed {seed}"
        );
        let body = values.iter().copied().filter(|x| x.abs() < TAIL);
        assert_eq!(
            fnv(body),
            draw.bits,
            "values of seed {seed} outside the tail"
        );

        // The tail goes through the platform's logarithm, which may differ in the last bit.
        let tail = values.iter().filter(|x| x.abs() >= TAIL).count();
        assert_eq!(tail, draw.tail, "tail values of seed {seed}");
        let sum: f64 = values.iter().map(|&x| f64::from(x)).sum();
        assert!(
            (sum - draw.sum).abs() < 1e-4,
            "sum of seed {seed}: {sum}, numpy has {}",
            draw.sum
        );
        let largest = values
            .iter()
            .fold(0.0, |max: f64, x| max.max(f64::from(x.abs())));
        assert!(
            (largest - draw.largest).abs() < 2e-6,
            "largest of seed {seed}: {largest}"
        );
    }
}

#[test]
fn two_short_draws_continue_each_other_as_one_long_draw() {
    let whole = NumpyRng::new(7).standard_normal_f32(1001);
    let mut rng = NumpyRng::new(7);
    let mut parts = rng.standard_normal_f32(333);
    parts.extend(rng.standard_normal_f32(668));
    assert_eq!(bits_of(&parts), bits_of(&whole));
}

/// What `spectrum_matrix` of the numpy script gives, flattened, at the positions `at`, and the sum
/// of its entries times the cosine of their position.
struct Spectrum {
    arguments: (usize, usize, f32, u64, usize),
    at: [usize; 5],
    values: [f64; 5],
    checksum: f64,
}

const SPECTRA: [Spectrum; 4] = [
    Spectrum {
        arguments: (48, 32, 0.5, 7, 0),
        at: [0, 1, 512, 1534, 1535],
        values: [2.3303647, 0.4835023, -0.8918494, -0.6676078, -0.0654278],
        checksum: 8.198639,
    },
    Spectrum {
        arguments: (32, 48, 0.5, 3, 4),
        at: [0, 1, 512, 1534, 1535],
        values: [0.3669818, -1.4660687, -0.8024030, -0.1277256, 1.0979984],
        checksum: 14.973906,
    },
    Spectrum {
        arguments: (64, 64, 1.0, 11, 16),
        at: [0, 1, 1365, 4094, 4095],
        values: [1.9656518, -1.2983392, -0.0886847, 1.3607011, 0.4365578],
        checksum: 10.240650,
    },
    Spectrum {
        arguments: (1024, 1024, 0.5, 7, 16),
        at: [0, 1, 349525, 1048574, 1048575],
        values: [1.3899425, 1.9345279, 1.9933914, 0.1724273, -0.9642823],
        checksum: 149.198618,
    },
];

#[test]
fn spectrum_matrices_equal_those_of_numpy_up_to_the_order_of_summation() {
    for case in &SPECTRA {
        let (m, n, alpha, seed, blocks) = case.arguments;
        let w = spectrum_matrix(m, n, alpha, seed, blocks);
        assert_eq!(w.len(), m * n);
        for (&at, &expected) in case.at.iter().zip(&case.values) {
            let found = f64::from(w[at]);
            let close = (found - expected).abs() < 1e-5;
            assert!(
                close,
                "[{m}, {n}] entry {at}: {found}, numpy has {expected}"
            );
        }
        let sum: f64 = w
            .iter()
            .enumerate()
            .map(|(i, &x)| f64::from(x) * (i as f64).cos())
            .sum();
        let close = (sum - case.checksum).abs() < 1e-3;
        assert!(
            close,
            "[{m}, {n}] checksum {sum}, numpy has {}",
            case.checksum
        );
    }
}
