//! `trialbay-sim`: plays scenarios and seeds, shows and shrinks failures, hunts planted bugs.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // A panic of an engine is a finding with a story of its own.
    std::panic::set_hook(Box::new(|_| {}));
    match cli::run(cli::Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(mistake) => {
            eprintln!("trialbay-sim: {mistake}");
            ExitCode::from(2)
        }
    }
}
