//! `alknet completions SHELL`.

use crate::{app::App, cli::definition, failure::Failure};
use clap::Args;
use clap_complete::Shell;

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  alknet completions bash > ~/.local/share/bash-completion/completions/alknet
  alknet completions zsh > ~/.zfunc/_alknet
  alknet completions fish > ~/.config/fish/completions/alknet.fish")]
pub(crate) struct CompletionsArgs {
    /// Which shell
    shell: Shell,
}

pub(crate) fn run(app: &App, args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut definition(), "alknet", &mut script);
    app.out.text(&String::from_utf8_lossy(&script))
}
