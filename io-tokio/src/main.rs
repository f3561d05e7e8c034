//! The `trialbay` binary.

fn main() -> std::process::ExitCode {
    trialbay::cli::main()
}
