//! `trialbay-sim`: plays scenarios and seeds, shows and shrinks failures, hunts planted bugs.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    quieten_panics();
    match cli::run(cli::Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(mistake) => {
            eprintln!("trialbay-sim: {mistake}");
            ExitCode::from(2)
        }
    }
}

/// A panic that becomes a finding has a story of its own; and whoever reads our output may have read enough.
fn quieten_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message = panic.payload().downcast_ref::<String>();
        if message.is_some_and(|message| message.starts_with("failed printing to stdout")) {
            std::process::exit(1);
        }
        if !trialbay_sim::is_catching() {
            usual(panic);
        }
    }));
}
