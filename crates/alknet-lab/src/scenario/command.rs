//! `alknet-lab matrix`.

use super::{About, Options, Results, Row, Scenario, all, page, run};
use crate::Lab;
use clap::Args;
use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// The words of `alknet-lab matrix`.
#[derive(Clone, Debug, Args)]
pub struct MatrixArgs {
    /// The program under test
    #[arg(long, value_name = "PATH", default_value = "target/debug/alknet")]
    pub alknet: PathBuf,
    /// Runs only this row; may be repeated
    #[arg(long, value_name = "NAME")]
    pub only: Vec<String>,
    /// The bulk channel carries 1 GiB, and relayed links are watched for longer
    #[arg(long)]
    pub full: bool,
    /// Writes the tables into this page, whose other text is kept
    #[arg(long, value_name = "FILE", conflicts_with = "only")]
    pub write: Option<PathBuf>,
    /// Lists the rows and runs nothing
    #[arg(long)]
    pub list: bool,
}

/// Why the matrix could not be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MatrixError {
    /// No such row.
    #[error("no row `{0}`: `alknet-lab matrix --list` names them")]
    NoRow(String),
    /// The program under test is not there or does not run.
    #[error("`{path}` does not run: `cargo build -p alknet-cli` makes it")]
    NoProgram {
        /// Where it was looked for.
        path: String,
    },
    /// This machine cannot have namespaces; the skip says why.
    #[error("this machine cannot have a lab: root and `nft` are needed")]
    NoLab,
    /// The page or the output could not be written.
    #[error("failed to write")]
    Write(#[from] io::Error),
}

/// Runs rows of the matrix, says of each how it went, and writes the page.
/// Whether all went as expected.
///
/// # Errors
///
/// [`MatrixError`]. A row that could not be run to its end is told in the page
/// instead.
pub fn matrix(args: &MatrixArgs, out: &mut dyn io::Write) -> Result<bool, MatrixError> {
    let chosen = chosen(&args.only)?;
    if args.list {
        for scenario in &chosen {
            writeln!(out, "{:<22}{}", scenario.name, scenario.about)?;
        }
        return Ok(true);
    }
    let about = about(args)?;
    let options = Options {
        // It is started from other directories.
        alknet: fs::canonicalize(&args.alknet)?,
        full: args.full,
    };
    let mut results = Results::default();
    for scenario in &chosen {
        if let Some(package) = scenario.missing() {
            let why = format!("`{package}` is not installed");
            writeln!(out, "{:<22}skipped: {why}", scenario.name)?;
            results.not_run.push((scenario.name, why));
            continue;
        }
        let lab = Lab::open(scenario.name).ok_or(MatrixError::NoLab)?;
        match run(lab, scenario, &options) {
            Ok(row) => {
                say(out, &row)?;
                results.rows.push(row);
            }
            Err(error) => {
                writeln!(out, "{:<22}could not be run: {error}", scenario.name)?;
                let why = error.to_string();
                let first = why.lines().next().unwrap_or_default().to_owned();
                results.not_run.push((scenario.name, first));
            }
        }
        if let Some(path) = &args.write {
            // After each row: what was measured is kept if the next one hangs.
            let before = fs::read_to_string(path).ok();
            fs::write(path, page(&about, &results, before.as_deref()))?;
        }
    }
    if args.write.is_none() {
        writeln!(out, "\n{}", page(&about, &results, None))?;
    }
    Ok(results.are_as_expected())
}

fn chosen(only: &[String]) -> Result<Vec<Scenario>, MatrixError> {
    let all = all();
    if let Some(unknown) = only
        .iter()
        .find(|name| !all.iter().any(|row| row.name == **name))
    {
        return Err(MatrixError::NoRow(unknown.clone()));
    }
    let is_wanted = |row: &Scenario| only.is_empty() || only.iter().any(|name| row.name == *name);
    Ok(all.into_iter().filter(is_wanted).collect())
}

fn say(out: &mut dyn io::Write, row: &Row) -> io::Result<()> {
    let verdict = if row.deviations.is_empty() {
        "as expected".to_owned()
    } else {
        row.deviations.join("; ")
    };
    writeln!(
        out,
        "{:<22}{verdict} ({:.0} s)",
        row.scenario.name,
        row.took.as_secs_f64()
    )?;
    out.flush()
}

fn about(args: &MatrixArgs) -> Result<About, MatrixError> {
    let no_program = || MatrixError::NoProgram {
        path: args.alknet.display().to_string(),
    };
    let said = Command::new(&args.alknet).args(["version"]).output();
    let said = said.ok().filter(|said| said.status.success());
    let said = said.ok_or_else(no_program)?;
    let version = String::from_utf8_lossy(&said.stdout);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let build = args.alknet.parent().and_then(Path::file_name);
    let full = if args.full { " --full" } else { "" };
    let program = format!(" --alknet {}", args.alknet.display());
    Ok(About {
        date: time::OffsetDateTime::now_utc().date().to_string(),
        kernel: kernel.trim().to_owned(),
        alknet: version.trim().trim_start_matches("alknet ").to_owned(),
        build: build.map_or("unknown".into(), |name| name.to_string_lossy().into_owned()),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        command: format!("./lab matrix{program}{full} --write docs/research/nat-matrix.md"),
    })
}
