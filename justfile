# `just` alone lists these.

_default:
    @just --list

# The tests, as the README has them.
test:
    cargo test --release --workspace

# Everything a change has to pass.
ci:
    .ci/run

# Train, evaluate and search on the built-in drawings.
quickstart *args:
    cargo run --release -- quickstart {{ args }}

# Measure against other programs; benches/ says what and how.
bench *args:
    python3 benches/compare.py {{ args }}

# Bring docs/reference up to date and check the documentation of the crates.
docs:
    docs/generate
    RUSTDOCFLAGS="-D warnings" cargo doc --release --workspace --no-deps
