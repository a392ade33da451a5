//! The products that are measured: those of a linear layer and of an attention head.

/// Of one element: sums of some thousand products in `f32` are off by some 1e-4.
const TOLERANCE: f64 = 1e-2;

/// Where a product comes from, which decides how chiasm computes it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `X W` or `dY W^T`: a tall matrix with weights, which can be packed once.
    Weights,
    /// `X^T dY`, the gradient of weights.
    Gradient,
    /// A product of one attention head, of which many run at once.
    Head,
}

/// A row-major matrix, to be read as it is or transposed.
pub(crate) struct Matrix {
    pub(crate) data: Vec<f32>,
    /// Rows in memory.
    stored_rows: usize,
    /// Columns in memory.
    stored_cols: usize,
    /// Elements from the start of one stored row to that of the next.
    pub(crate) row_stride: usize,
    /// Whether its transpose is meant.
    pub(crate) transposed: bool,
}

impl Matrix {
    /// Random elements in `-0.5..0.5`, rows `row_stride` apart.
    fn random(rows: usize, cols: usize, row_stride: usize) -> Self {
        // The multiplier and increment of Knuth's MMIX; the high 24 bits are taken.
        let mut state = 1u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
        };
        Self {
            data: (0..rows * row_stride).map(|_| next()).collect(),
            stored_rows: rows,
            stored_cols: cols,
            row_stride,
            transposed: false,
        }
    }

    fn t(self) -> Self {
        Self {
            transposed: !self.transposed,
            ..self
        }
    }

    /// Rows and columns in memory.
    pub(crate) fn stored(&self) -> (usize, usize) {
        (self.stored_rows, self.stored_cols)
    }

    /// Rows and columns as multiplied.
    pub(crate) fn size(&self) -> (usize, usize) {
        let (rows, cols) = self.stored();
        if self.transposed {
            (cols, rows)
        } else {
            (rows, cols)
        }
    }

    /// Elements from one row to the next and from one column to the next, as multiplied.
    pub(crate) fn strides(&self) -> (isize, isize) {
        let stride = self.row_stride as isize;
        if self.transposed {
            (1, stride)
        } else {
            (stride, 1)
        }
    }

    fn at(&self, i: usize, j: usize) -> f64 {
        let (i, j) = if self.transposed { (j, i) } else { (i, j) };
        f64::from(self.data[i * self.row_stride + j])
    }
}

/// `C = A B`.
pub(crate) struct Product {
    /// Transpositions and the sizes `m x k x n`.
    pub(crate) shape: String,
    pub(crate) kind: Kind,
    pub(crate) a: Matrix,
    pub(crate) b: Matrix,
    /// Of `C`.
    row_stride: usize,
}

impl Product {
    /// `name` tells the transpositions; `C` is dense.
    fn new(name: &str, kind: Kind, a: Matrix, b: Matrix) -> Self {
        let ((m, k), (_, n)) = (a.size(), b.size());
        Self {
            shape: format!("{name} {m}x{k}x{n}"),
            kind,
            a,
            b,
            row_stride: n,
        }
    }

    /// Rows, depth and columns: `A [m, k]`, `B [k, n]`, `C [m, n]`.
    pub(crate) fn sizes(&self) -> (usize, usize, usize) {
        let ((m, k), (_, n)) = (self.a.size(), self.b.size());
        (m, k, n)
    }

    /// Multiplications and additions.
    pub(crate) fn operations(&self) -> f64 {
        let (m, k, n) = self.sizes();
        2.0 * (m * k * n) as f64
    }

    /// Compares three elements with sums in `f64`, so that no operand is confused with its transpose.
    pub(crate) fn check(&self, output: &Output) -> Result<(), String> {
        let (m, k, n) = self.sizes();
        for (i, j) in [(0, 0), (m - 1, n - 1), (m / 2, n / 3)] {
            let want: f64 = (0..k).map(|p| self.a.at(i, p) * self.b.at(p, j)).sum();
            let got = f64::from(output.data[i * output.row_stride + j]);
            let error = (got - want).abs();
            if error.is_nan() || error > TOLERANCE {
                return Err(format!(
                    "{}: element ({i}, {j}) is {got}, not {want}",
                    self.shape
                ));
            }
        }
        Ok(())
    }
}

/// Where a product is written, `[m, n]`.
pub(crate) struct Output {
    pub(crate) data: Vec<f32>,
    pub(crate) row_stride: usize,
}

impl Output {
    /// Room for `product`, not a number anywhere, so that nothing left out passes the check.
    pub(crate) fn new(product: &Product) -> Self {
        let (m, _, _) = product.sizes();
        Self {
            data: vec![f32::NAN; m * product.row_stride],
            row_stride: product.row_stride,
        }
    }
}

/// Every product that is measured, made when it is its turn.
pub(crate) fn all() -> impl Iterator<Item = Product> {
    // Tokens, input and output width: ViT 6x256 with 32 pictures of 65 tokens, and ViT-B/32 with 8 of 50.
    let layers = [
        (2080, 256, 768),
        (2080, 256, 1024),
        (2080, 1024, 256),
        (400, 768, 3072),
        (400, 3072, 768),
    ];
    let layers = layers.into_iter().flat_map(|(tokens, input, output)| {
        let dense = |rows, cols| Matrix::random(rows, cols, cols);
        let makers: [Box<dyn Fn() -> Product>; 3] = [
            Box::new(move || {
                let (x, w) = (dense(tokens, input), dense(input, output));
                Product::new("NN", Kind::Weights, x, w)
            }),
            Box::new(move || {
                let (x, dy) = (dense(tokens, input), dense(tokens, output));
                Product::new("TN", Kind::Gradient, x.t(), dy)
            }),
            Box::new(move || {
                let (dy, w) = (dense(tokens, output), dense(input, output));
                Product::new("NT", Kind::Weights, dy, w.t())
            }),
        ];
        makers.into_iter().map(|make| make())
    });
    layers.chain(head())
}

/// Scores and context of one head of 64 over 65 tokens, part of rows of 768.
fn head() -> [Product; 2] {
    let (tokens, head, width) = (65, 64, 768);
    let part = || Matrix::random(tokens, head, width);
    let weights = Matrix::random(tokens, tokens, tokens);
    [
        Product::new("head QK^T", Kind::Head, part(), part().t()),
        Product {
            row_stride: width,
            ..Product::new("head PV", Kind::Head, weights, part())
        },
    ]
}
