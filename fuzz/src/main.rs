//! Runs fuzz targets for as long as one likes.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use chiton_fuzz::run::{Limit, once, run};
use chiton_fuzz::{TARGETS, Target, target};
use clap::Parser;

#[global_allocator]
static MEMORY: peak_alloc::PeakAlloc = peak_alloc::PeakAlloc;

/// Runs fuzz targets. Without a target it lists them.
#[derive(Parser)]
struct Args {
    /// The target, or "all".
    target: Option<String>,
    /// How long to run each.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// How many inputs at the most.
    #[arg(long, default_value_t = u64::MAX)]
    inputs: u64,
    /// What the inputs follow from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs this one input.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Writes the inputs that runs begin with below this folder, one folder for each target.
    #[arg(long, value_name = "FOLDER")]
    write_corpus: Option<PathBuf>,
}

fn main() -> ExitCode {
    match execute(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
    }
}

fn chosen(name: &str) -> Result<Vec<&'static Target>, String> {
    if name == "all" {
        return Ok(TARGETS.iter().collect());
    }
    target(name)
        .map(|target| vec![target])
        .ok_or_else(|| format!("there is no target {name:?}; without one they are listed"))
}

/// Whether every property held.
fn execute(args: &Args) -> Result<bool, Box<dyn std::error::Error>> {
    if let Some(folder) = &args.write_corpus {
        for target in TARGETS {
            let folder = folder.join(target.name);
            std::fs::create_dir_all(&folder)?;
            for (number, seed) in (target.seeds)().iter().enumerate() {
                std::fs::write(folder.join(format!("seed-{number:02}")), seed)?;
            }
        }
        return Ok(true);
    }
    let Some(name) = &args.target else {
        for target in TARGETS {
            println!("{:<12} {}", target.name, target.about);
        }
        return Ok(true);
    };
    let targets = chosen(name)?;
    if let Some(path) = &args.input {
        let input = std::fs::read(path)?;
        for target in targets {
            once(target, &input)?;
        }
        println!("every property held");
        return Ok(true);
    }
    // What failed is told once, with the input; not at the moment of the panic.
    std::panic::set_hook(Box::new(|_| {}));
    let mut sound = true;
    for target in targets {
        match run(target, args.seed, Limit { inputs: args.inputs, time: Duration::from_secs(args.seconds) }) {
            Ok(report) => println!("{report}"),
            Err(failure) => {
                println!("{failure}");
                sound = false;
            }
        }
    }
    Ok(sound)
}
