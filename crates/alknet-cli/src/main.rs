//! The `alknet` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            use std::io::Write;
            let _ = writeln!(std::io::stderr(), "error: failed to start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let exit = runtime.block_on(alknet_cli::run(std::env::args_os()));
    // A read of standard input cannot be cancelled; nobody waits for it.
    runtime.shutdown_background();
    exit.into()
}
