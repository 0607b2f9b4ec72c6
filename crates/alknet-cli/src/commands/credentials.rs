//! `alknet credentials`.

use crate::{
    app::App,
    commands::passphrase,
    failure::Failure,
    hint::quote,
    output::cell,
    prompt,
    table::{Table, one_line},
    when,
};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

#[derive(Debug, Args)]
#[command(after_help = "\
A credential is a secret with which operations of this node knock at other
doors: a token, a password, a private key. It lies in the database, sealed by
the vault, and no command shows it again.

  alknet credentials put github ada             asks for it, unseen
  pass show github | alknet credentials put github ada -
  alknet credentials put smtp robot @token.txt")]
pub(crate) struct CredentialsArgs {
    #[command(subcommand)]
    command: CredentialsCommand,
}

#[derive(Debug, Subcommand)]
enum CredentialsCommand {
    /// Stores a secret, in the place of the one before
    #[command(after_help = "\
Never write the secret itself into the command: other users see it there. The
end of its last line is left out.")]
    Put {
        /// Whose door it opens: `github`
        provider: String,
        /// Which of the accounts there: `ada`
        account: String,
        /// Where the secret is: `-` for standard input, `@FILE` for a file; if not
        /// given it is asked for, unseen, or read from standard input where nobody
        /// can be asked
        #[arg(value_name = "-|@FILE", allow_hyphen_values = true)]
        source: Option<String>,
    },
    /// Lists which secrets there are, and which operations use them
    List,
    /// Removes a secret
    Remove {
        /// Whose door it opens
        provider: String,
        /// Which of the accounts there
        account: String,
        /// Does not ask; needed where nobody can be asked
        #[arg(long)]
        yes: bool,
    },
}

pub(crate) async fn run(app: &App, args: CredentialsArgs) -> Result<(), Failure> {
    match args.command {
        CredentialsCommand::Put {
            provider,
            account,
            source,
        } => put(app, &provider, &account, source.as_deref()).await,
        CredentialsCommand::List => list(app).await,
        CredentialsCommand::Remove {
            provider,
            account,
            yes,
        } => remove(app, &provider, &account, yes).await,
    }
}

async fn put(
    app: &App,
    provider: &str,
    account: &str,
    source: Option<&str>,
) -> Result<(), Failure> {
    // Before anybody types a secret for nothing.
    app.home().await?;
    let secret = match source {
        Some("-") => passphrase::read_stdin().await?,
        Some(source) => match source.strip_prefix('@') {
            Some(path) => passphrase::read_secret(path.as_ref())?,
            // Not repeated: it may be the secret.
            None => {
                return Err(Failure::usage(
                    "the secret is not taken from the command line, where other users see it",
                )
                .hint("`-` reads it from standard input, `@FILE` from a file; without either it is asked for"));
            }
        },
        None if app.out.can_ask() => passphrase::ask("the secret (not shown): ").await?,
        None => passphrase::read_stdin().await?,
    };
    let input = json!({
        "provider": provider,
        "account": account,
        "secret": secret.expose_text().unwrap_or_default(),
    });
    drop(secret);
    let reply = app.ask("credentials/put", input).await?;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    let used = cell(reply.get("used_by"));
    let used = match used.is_empty() {
        true => "no operation uses it yet".to_owned(),
        false => format!("given to {used}"),
    };
    app.out.say(&one_line(&format!(
        "credential `{provider}/{account}` is stored; {used}"
    )));
    Ok(())
}

async fn list(app: &App) -> Result<(), Failure> {
    let reply = app.ask("credentials/list", json!({})).await?;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    let entries = |field: &str| {
        let list = reply.get(field).and_then(Value::as_array);
        list.cloned().unwrap_or_default()
    };
    let mut table = Table::new(&["PROVIDER", "ACCOUNT", "PUT", "KEY", "USED BY"]);
    for one in entries("credentials") {
        table.row([
            cell(one.get("provider")),
            cell(one.get("account")),
            when::relative(&cell(one.get("updated_at"))),
            cell(one.get("key_version")),
            cell(one.get("used_by")),
        ]);
    }
    for one in entries("missing") {
        table.row([
            cell(one.get("provider")),
            cell(one.get("account")),
            "missing".to_owned(),
            String::new(),
            cell(one.get("used_by")),
        ]);
    }
    app.out.text(&table.render(app.out.width()))
}

async fn remove(app: &App, provider: &str, account: &str, yes: bool) -> Result<(), Failure> {
    let name = format!("{provider}/{account}");
    if !yes && !app.out.can_ask() {
        let message = "a removed secret is gone for good, and nobody can be asked here";
        let command = format!(
            "alknet credentials remove {} {} --yes",
            quote(provider),
            quote(account)
        );
        return Err(Failure::usage(message).hint(format!("use --yes: {command}")));
    }
    if !yes {
        let question = one_line(&format!("remove credential `{name}`, for good?"));
        if !prompt::confirm(&question).await? {
            return Err(Failure::local("nothing was removed"));
        }
    }
    let input = json!({ "provider": provider, "account": account });
    let reply = app.ask("credentials/remove", input).await?;
    if app.out.json {
        return app.out.json_line(&reply);
    }
    app.out
        .say(&one_line(&format!("credential `{name}` is removed")));
    Ok(())
}
