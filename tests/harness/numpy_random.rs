//! Numpy's default generator, so that matrices drawn by a numpy script can be drawn again here.
//!
//! [`NumpyRng`] is `numpy.random.default_rng(seed)` for one word of seed: a seed sequence, the
//! PCG64 generator (128-bit state, XSL-RR output, [O'Neill 2014](https://www.pcg-random.org)), and the
//! single-precision ziggurat of `standard_normal(dtype=float32)`
//! ([Marsaglia and Tsang 2000](https://doi.org/10.18637/jss.v005.i08)). Draws equal numpy's bit for
//! bit, except that a value from the tail (|x| > 3.654, one in 4,000) takes `ln_1p` of the platform.

/// `numpy.random.default_rng(seed)`, as far as `standard_normal(dtype=float32)` needs it.
pub struct NumpyRng {
    state: u128,
    increment: u128,
    /// High half of the last 64-bit output, which the next 32-bit draw uses up.
    spare: Option<u32>,
    ziggurat: Ziggurat,
}

impl NumpyRng {
    /// The generator that numpy makes of the integer `seed`.
    pub fn new(seed: u64) -> Self {
        let words = seed_words(seed);
        let wide = |high: usize| (u128::from(words[high]) << 64) | u128::from(words[high + 1]);
        let mut rng = Self {
            state: 0,
            increment: (wide(2) << 1) | 1,
            spare: None,
            ziggurat: Ziggurat::new(),
        };
        rng.step();
        rng.state = rng.state.wrapping_add(wide(0));
        rng.step();
        rng
    }

    /// The next `n` values of `standard_normal(n, dtype=float32)`.
    pub fn standard_normal_f32(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.normal()).collect()
    }

    fn step(&mut self) {
        const MULTIPLIER: u128 = 0x2360_ED05_1FC6_5DA4_4385_DF64_9FCC_F645;
        self.state = self
            .state
            .wrapping_mul(MULTIPLIER)
            .wrapping_add(self.increment);
    }

    fn next_u64(&mut self) -> u64 {
        self.step();
        let folded = (self.state >> 64) as u64 ^ self.state as u64;
        folded.rotate_right((self.state >> 122) as u32)
    }

    fn next_u32(&mut self) -> u32 {
        if let Some(high) = self.spare.take() {
            return high;
        }
        let both = self.next_u64();
        self.spare = Some((both >> 32) as u32);
        both as u32
    }

    /// Uniform in [0, 1), a multiple of 2^-24.
    fn uniform(&mut self) -> f32 {
        (self.next_u32() >> 8) as f32 * (1.0 / 16_777_216.0)
    }

    fn normal(&mut self) -> f32 {
        loop {
            // Eight bits of layer, one of sign, 23 of distance.
            let bits = self.next_u32();
            let layer = (bits & 0xff) as usize;
            let distance = bits >> 9;
            let magnitude = distance as f32 * self.ziggurat.width[layer];
            let x = if bits & 0x100 == 0 {
                magnitude
            } else {
                -magnitude
            };
            if distance < self.ziggurat.inside[layer] {
                return x;
            }
            if layer == 0 {
                let tail = self.tail();
                // The sign bit is spent on nothing here: numpy takes one of the distance.
                return if distance & 0x100 == 0 { tail } else { -tail };
            }
            let (upper, lower) = (self.ziggurat.height[layer - 1], self.ziggurat.height[layer]);
            let height = (upper - lower) * self.uniform() + lower;
            if f64::from(height) < (-0.5 * f64::from(x) * f64::from(x)).exp() {
                return x;
            }
        }
    }

    /// A value beyond the last layer, by Marsaglia's exponential rejection.
    fn tail(&mut self) -> f32 {
        let inverse = (1.0 / Ziggurat::EDGE) as f32;
        loop {
            let x = -inverse * (-self.uniform()).ln_1p();
            let y = -(-self.uniform()).ln_1p();
            if y + y > x * x {
                return Ziggurat::EDGE as f32 + x;
            }
        }
    }
}

/// 256 layers of equal area under `exp(-x²/2)`, x >= 0, with distances counted in 2^-23.
struct Ziggurat {
    /// Distances below this lie under the curve whatever the height.
    inside: [u32; 256],
    /// One step of distance in a layer.
    width: [f32; 256],
    /// The curve at the outer edge of a layer; 1 for the tail.
    height: [f32; 256],
}

impl Ziggurat {
    /// Where the tail begins.
    const EDGE: f64 = 3.654_152_885_361_009;
    /// Area of a layer: that of the tail with the box below it.
    const AREA: f64 = 0.004_928_673_233_974_658;

    fn new() -> Self {
        const STEPS: f64 = 8_388_608.0;
        let curve = |x: f64| (-0.5 * x * x).exp();
        let mut table = Self {
            inside: [0; 256],
            width: [0.0; 256],
            height: [0.0; 256],
        };

        let base = Self::AREA / curve(Self::EDGE);
        table.inside[0] = (Self::EDGE / base * STEPS).round() as u32;
        table.width[0] = (base / STEPS) as f32;
        table.height[0] = 1.0;
        table.width[255] = (Self::EDGE / STEPS) as f32;
        table.height[255] = curve(Self::EDGE) as f32;

        let mut outer = Self::EDGE;
        for layer in (1..255).rev() {
            let edge = (-2.0 * (Self::AREA / outer + curve(outer)).ln()).sqrt();
            table.inside[layer + 1] = (edge / outer * STEPS).round() as u32;
            table.width[layer] = (edge / STEPS) as f32;
            table.height[layer] = curve(edge) as f32;
            outer = edge;
        }
        table
    }
}

/// Numpy's `SeedSequence(seed).generate_state(4, uint64)`: state and increment, high half first.
fn seed_words(seed: u64) -> [u64; 4] {
    const MIX_LEFT: u32 = 0xca01_f9dd;
    const MIX_RIGHT: u32 = 0x4973_f715;
    let mut hash = Hash {
        constant: 0x43b0_d7e5,
        multiplier: 0x931e_8875,
    };
    let mut pool = [seed as u32, (seed >> 32) as u32, 0, 0].map(|word| hash.of(word));
    for from in 0..4 {
        for to in 0..4 {
            if from != to {
                let mixed = MIX_LEFT
                    .wrapping_mul(pool[to])
                    .wrapping_sub(MIX_RIGHT.wrapping_mul(hash.of(pool[from])));
                pool[to] = mixed ^ (mixed >> 16);
            }
        }
    }
    let mut hash = Hash {
        constant: 0x8b51_f9dd,
        multiplier: 0x58f3_8ded,
    };
    let words: [u32; 8] = std::array::from_fn(|i| hash.of(pool[i % 4]));
    std::array::from_fn(|i| u64::from(words[2 * i]) | (u64::from(words[2 * i + 1]) << 32))
}

/// The multiplicative hash of the seed sequence; its constant moves on with every word.
struct Hash {
    constant: u32,
    multiplier: u32,
}

impl Hash {
    fn of(&mut self, word: u32) -> u32 {
        let mixed = word ^ self.constant;
        self.constant = self.constant.wrapping_mul(self.multiplier);
        let mixed = mixed.wrapping_mul(self.constant);
        mixed ^ (mixed >> 16)
    }
}

/// A matrix with singular values near `k^-alpha`, plus (for `blocks > 0`) rank 4 of its own in each
/// of `blocks²` blocks, scaled to a standard deviation of one: `[m, n]`, row-major.
///
/// The draws are numpy's; the products sum in `f32` in an order of their own, so that entries agree
/// with a numpy script to about 1e-6, not to the bit. `m` and `n` are multiples of `blocks`.
pub fn spectrum_matrix(m: usize, n: usize, alpha: f32, seed: u64, blocks: usize) -> Vec<f32> {
    let mut rng = NumpyRng::new(seed);
    let rank = m.min(n);
    let mut u = rng.standard_normal_f32(m * rank);
    let v = rng.standard_normal_f32(rank * n);
    let scales: Vec<f32> = (1..=rank).map(|k| (k as f32).powf(-alpha)).collect();
    for row in u.chunks_mut(rank) {
        row.iter_mut()
            .zip(&scales)
            .for_each(|(x, scale)| *x *= scale);
    }
    let mut w = product(&u, &v, m, rank, n);
    if blocks > 0 {
        add_block_parts(&mut w, &mut rng, m, n, blocks);
    }
    let count = w.len() as f64;
    let mean = w.iter().map(|&x| f64::from(x)).sum::<f64>() / count;
    let variance = w
        .iter()
        .map(|&x| (f64::from(x) - mean).powi(2))
        .sum::<f64>()
        / count;
    let deviation = variance.sqrt() as f32;
    w.iter_mut().for_each(|x| *x /= deviation);
    w
}

fn add_block_parts(w: &mut [f32], rng: &mut NumpyRng, m: usize, n: usize, blocks: usize) {
    const RANK: usize = 4;
    let (rows, columns) = (m / blocks, n / blocks);
    for block in 0..blocks * blocks {
        let (top, left) = (block / blocks * rows, block % blocks * columns);
        let a = rng.standard_normal_f32(rows * RANK);
        let b = rng.standard_normal_f32(RANK * columns);
        let part = product(&a, &b, rows, RANK, columns);
        for (row, values) in part.chunks(columns).enumerate() {
            let start = (top + row) * n + left;
            for (x, value) in w[start..start + columns].iter_mut().zip(values) {
                *x += 0.5 * value;
            }
        }
    }
}

/// `a [m, k]` times `b [k, n]`, row-major, rows shared among the cores.
fn product(a: &[f32], b: &[f32], m: usize, k: usize, n: usize) -> Vec<f32> {
    /// Rows of `b` that stay in cache while all rows of a share pass over them.
    const DEPTH: usize = 64;
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get());
    // A thread costs more than a block of a few thousand multiply-adds.
    let shares = if m * k * n < 1 << 20 { 1 } else { cores };
    let rows = m.div_ceil(shares);
    let mut out = vec![0.0; m * n];
    std::thread::scope(|scope| {
        for (c, a) in out.chunks_mut(rows * n).zip(a.chunks(rows * k)) {
            let mut share = move || {
                for first in (0..k).step_by(DEPTH) {
                    let last = k.min(first + DEPTH);
                    for (c, a) in c.chunks_mut(n).zip(a.chunks(k)) {
                        for (scale, b) in a[first..last].iter().zip(b[first * n..].chunks(n)) {
                            c.iter_mut().zip(b).for_each(|(c, b)| *c += scale * b);
                        }
                    }
                }
            };
            if shares == 1 {
                share();
            } else {
                scope.spawn(share);
            }
        }
    });
    out
}
