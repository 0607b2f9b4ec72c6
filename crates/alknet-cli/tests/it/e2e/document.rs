//! What documents tell people to type: their fenced blocks, and a shell that
//! types it.

use crate::program::{Said, finish};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The folder that the repository is checked out into.
pub(crate) fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// A document, or a section of one.
pub(crate) struct Document {
    pub(crate) path: String,
    text: String,
}

/// A fenced block.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// What the fence says, such as `sh laptop`.
    pub(crate) fence: String,
    pub(crate) text: String,
    /// Where its fence is, in the document or section.
    pub(crate) line: usize,
}

impl Document {
    /// A document of the repository.
    #[track_caller]
    pub(crate) fn open(path: &str) -> Self {
        Self {
            path: path.to_owned(),
            text: fs::read_to_string(repository().join(path)).unwrap(),
        }
    }

    /// What is below a heading of the second level.
    #[track_caller]
    pub(crate) fn section(&self, heading: &str) -> Self {
        let mut sections = self.text.split("\n## ");
        let found = sections.find(|section| section.lines().next() == Some(heading));
        Self {
            path: format!("{}, {heading}", self.path),
            text: found.unwrap().to_owned(),
        }
    }

    /// Its blocks, in order.
    pub(crate) fn blocks(&self) -> Vec<Block> {
        let (mut blocks, mut open): (Vec<Block>, Option<Block>) = (Vec::new(), None);
        for (at, line) in self.text.lines().enumerate() {
            match (line.strip_prefix("```"), &mut open) {
                (Some(""), Some(_)) => blocks.extend(open.take()),
                (Some(fence), None) => {
                    open = Some(Block {
                        fence: fence.to_owned(),
                        text: String::new(),
                        line: at + 1,
                    });
                }
                (_, Some(block)) => block.text.push_str(&format!("{line}\n")),
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block does not end", self.path);
        blocks
    }

    /// The texts of its blocks of shell commands, in order.
    pub(crate) fn shell(&self) -> Vec<String> {
        let blocks = self.blocks().into_iter();
        let shell = blocks.filter(|block| block.fence == "sh");
        shell.map(|block| block.text).collect()
    }
}

/// A person's shell in this home directory, with the program on the path and
/// nothing of whoever runs the tests.
pub(crate) fn shell(home: &Path, script: &str) -> Command {
    let mut command = Command::new("sh");
    let program = Path::new(env!("CARGO_BIN_EXE_alknet")).parent().unwrap();
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", program.display());
    command
        .args(["-ec", script])
        .current_dir(home)
        .env_clear()
        .env("HOME", home)
        .env("PATH", path);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Types a script into a shell, and waits for its end.
pub(crate) fn sh(home: &Path, script: &str) -> Said {
    finish(shell(home, script), b"")
}
