# Goal: a crate is built, a second build finds everything fresh, a changed file is built again.
# Needs: cargo
# Runs: default tiny
# Skips: target -- names and contents have the path of the crate in them
job() {
    unset CARGO_TARGET_DIR RUSTFLAGS
    export CARGO_TERM_COLOR=never
    cargo new -q --vcs none --lib part
    mkdir -p src
    printf '[package]\nname = "tiny"\nversion = "1.0.0"\nedition = "2021"\n[dependencies]\npart = { path = "part" }\n' >Cargo.toml
    echo 'fn main() { println!("{}", part::add(20, 22)); }' >src/main.rs
    cargo build -q --offline
    target/debug/tiny
    cargo build -v --offline 2>&1 | grep -E -o '(Fresh|Compiling|Dirty) [a-z]*'
    sleep 0.1
    echo 'fn main() { println!("{}", part::add(20, 23)); }' >src/main.rs
    cargo build -v --offline 2>&1 | grep -E -o '(Fresh|Compiling) [a-z]*'
    target/debug/tiny
}

check() {
    target/debug/tiny
    cargo build -v --offline 2>&1 | grep -E -o '(Fresh|Compiling|Dirty) [a-z]*'
}
