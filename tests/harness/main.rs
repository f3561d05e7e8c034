//! The `trialbay` binary, built where the tests find it.

fn main() -> std::process::ExitCode {
    trialbay::cli::main()
}
