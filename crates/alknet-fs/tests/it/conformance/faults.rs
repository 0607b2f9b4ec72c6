//! The rules and the model can fail: services with a planted fault are found.

use super::{quick, subject};
use alknet_core::{
    Caller, Dispatcher, Handler, Operation, Output, Permit, Registry,
    files::{
        Attributes, BucketInfo, ByteRange, Collected, CopyOptions, Create, DigestRequest, Digests,
        FileError, FilePath, FileService, FileStat, Listing, OpenFile, OpenOptions, Removal,
        Removed, RenameOptions, ReplaceOptions, Replacement, SmallFile, Space, Watch, WatchOptions,
    },
};
use alknet_testkit::files::{
    Subject, broken_rules,
    model::{Sequences, difference_to_the_model},
};
use async_trait::async_trait;
use bytes::Bytes;
use futures::FutureExt;
use std::sync::Arc;

/// What a service does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    AsksNoPermit,
    FollowsAlways,
    SetsThroughLinks,
    ReplacesInRename,
    MakesWhatMustBeThere,
    TakesWhatMustNotBeThere,
    ForgetsVersions,
    ForgetsDigests,
    ForgetsResuming,
    ForgetsModes,
    AppendsWhereItIsTold,
    KeepsWhatIsTruncated,
    RemovesWholeTrees,
    DigestsAllOfIt,
    PutsInReverse,
}

/// A sound service with a fault.
#[derive(Debug)]
struct Faulty {
    sound: Arc<dyn FileService>,
    fault: Fault,
    /// Of a caller who may do everything.
    whole: Permit,
}

impl Faulty {
    fn permit<'a>(&'a self, permit: &'a Permit) -> &'a Permit {
        match self.fault {
            Fault::AsksNoPermit => &self.whole,
            _ => permit,
        }
    }

    fn create(&self, create: Create) -> Create {
        match (self.fault, create) {
            (Fault::MakesWhatMustBeThere, Create::Never)
            | (Fault::TakesWhatMustNotBeThere, Create::New) => Create::IfMissing,
            _ => create,
        }
    }

    fn mode(&self, mode: Option<u32>) -> Option<u32> {
        mode.filter(|_| self.fault != Fault::ForgetsModes)
    }
}

#[async_trait]
impl FileService for Faulty {
    async fn buckets(&self, permit: &Permit) -> Result<Vec<BucketInfo>, FileError> {
        self.sound.buckets(self.permit(permit)).await
    }

    async fn stat(
        &self,
        permit: &Permit,
        path: &FilePath,
        follow: bool,
    ) -> Result<FileStat, FileError> {
        let follow = follow || self.fault == Fault::FollowsAlways;
        self.sound.stat(self.permit(permit), path, follow).await
    }

    async fn list(
        &self,
        permit: &Permit,
        path: &FilePath,
        from: Option<&str>,
    ) -> Result<Box<dyn Listing>, FileError> {
        self.sound.list(self.permit(permit), path, from).await
    }

    async fn open(
        &self,
        permit: &Permit,
        path: &FilePath,
        options: OpenOptions,
    ) -> Result<Arc<dyn OpenFile>, FileError> {
        let options = OpenOptions {
            append: options.append && self.fault != Fault::AppendsWhereItIsTold,
            truncate: options.truncate && self.fault != Fault::KeepsWhatIsTruncated,
            create: self.create(options.create),
            mode: self.mode(options.mode),
            ..options
        };
        self.sound.open(self.permit(permit), path, options).await
    }

    async fn replace(
        &self,
        permit: &Permit,
        path: &FilePath,
        options: ReplaceOptions,
    ) -> Result<Box<dyn Replacement>, FileError> {
        let fault = self.fault;
        let options = ReplaceOptions {
            create: self.create(options.create),
            mode: self.mode(options.mode),
            if_version: (options.if_version).filter(|_| fault != Fault::ForgetsVersions),
            digests: (options.digests).filter(|_| fault != Fault::ForgetsDigests),
            resume: (options.resume).filter(|_| fault != Fault::ForgetsResuming),
            ..options
        };
        self.sound.replace(self.permit(permit), path, options).await
    }

    async fn put_small(
        &self,
        permit: &Permit,
        mut files: Vec<SmallFile>,
    ) -> Vec<Result<FileStat, FileError>> {
        for file in &mut files {
            file.create = self.create(file.create);
            file.mode = self.mode(file.mode);
        }
        if self.fault == Fault::PutsInReverse {
            files.reverse();
        }
        self.sound.put_small(self.permit(permit), files).await
    }

    async fn get_small(
        &self,
        permit: &Permit,
        files: &[FilePath],
    ) -> Vec<Result<(FileStat, Bytes), FileError>> {
        self.sound.get_small(self.permit(permit), files).await
    }

    async fn set_attributes(
        &self,
        permit: &Permit,
        path: &FilePath,
        follow: bool,
        attributes: Attributes,
    ) -> Result<FileStat, FileError> {
        let follow = follow || self.fault == Fault::SetsThroughLinks;
        let (sound, permit) = (&self.sound, self.permit(permit));
        sound.set_attributes(permit, path, follow, attributes).await
    }

    async fn make_directory(
        &self,
        permit: &Permit,
        path: &FilePath,
        mode: Option<u32>,
    ) -> Result<FileStat, FileError> {
        let (sound, permit) = (&self.sound, self.permit(permit));
        sound.make_directory(permit, path, self.mode(mode)).await
    }

    async fn rename(
        &self,
        permit: &Permit,
        from: &FilePath,
        to: &FilePath,
        options: RenameOptions,
    ) -> Result<(), FileError> {
        let replace = options.replace || self.fault == Fault::ReplacesInRename;
        let (sound, options) = (&self.sound, RenameOptions { replace });
        sound.rename(self.permit(permit), from, to, options).await
    }

    async fn link(
        &self,
        permit: &Permit,
        existing: &FilePath,
        new: &FilePath,
    ) -> Result<(), FileError> {
        self.sound.link(self.permit(permit), existing, new).await
    }

    async fn symlink(
        &self,
        permit: &Permit,
        path: &FilePath,
        target: &[u8],
    ) -> Result<(), FileError> {
        self.sound.symlink(self.permit(permit), path, target).await
    }

    async fn read_link(&self, permit: &Permit, path: &FilePath) -> Result<Vec<u8>, FileError> {
        self.sound.read_link(self.permit(permit), path).await
    }

    async fn remove(
        &self,
        permit: &Permit,
        path: &FilePath,
        removal: Removal,
    ) -> Result<Removed, FileError> {
        let removal = match self.fault {
            Fault::RemovesWholeTrees => Removal::Tree,
            _ => removal,
        };
        self.sound.remove(self.permit(permit), path, removal).await
    }

    async fn copy(
        &self,
        permit: &Permit,
        from: &FilePath,
        to: &FilePath,
        options: CopyOptions,
    ) -> Result<FileStat, FileError> {
        let options = CopyOptions {
            create: self.create(options.create),
            ..options
        };
        self.sound
            .copy(self.permit(permit), from, to, options)
            .await
    }

    async fn digest(
        &self,
        permit: &Permit,
        path: &FilePath,
        mut request: DigestRequest,
    ) -> Result<(Digests, FileStat), FileError> {
        if self.fault == Fault::DigestsAllOfIt {
            request.range = ByteRange::default();
        }
        self.sound.digest(self.permit(permit), path, request).await
    }

    async fn space(&self, permit: &Permit, path: &FilePath) -> Result<Space, FileError> {
        self.sound.space(self.permit(permit), path).await
    }

    async fn watch(
        &self,
        permit: &Permit,
        path: &FilePath,
        options: WatchOptions,
    ) -> Result<Box<dyn Watch>, FileError> {
        self.sound.watch(self.permit(permit), path, options).await
    }

    async fn collect(&self, permit: &Permit, path: &FilePath) -> Result<Collected, FileError> {
        self.sound.collect(self.permit(permit), path).await
    }
}

fn faulty(fault: Fault) -> Subject {
    let sound = subject(quick());
    Subject {
        service: Arc::new(Faulty {
            sound: sound.service.clone(),
            fault,
            whole: whole(),
        }),
        ..sound
    }
}

/// A permit that covers everything.
fn whole() -> Permit {
    let registry = Registry::new();
    let mut operation = Operation::query("test/all", "Does all of it.").requires("fs:write");
    for action in ["list", "read", "write", "admin"] {
        operation = operation.resource("bucket", action, "/file");
    }
    let handler = Handler::Unary(Arc::new(|_, input| {
        Box::pin(async move { Ok(Output::Value(input.into_value()?)) })
    }));
    registry.register(vec![operation.raw(handler)]).unwrap();
    let door = Dispatcher::builder(registry).build();
    door.authorize(&Caller::host(), "test/all").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_planted_fault_breaks_the_rules_that_forbid_it() {
    for (fault, rules) in [
        (
            Fault::AsksNoPermit,
            &[
                "who_holds_nothing_of_it_may_not",
                "who_is_denied_it_may_not",
                "who_held_it_may_no_longer",
                "a_permit_of_another_operation_does_not_do",
                "a_link_gives_no_right_to_where_it_leads",
                "a_tree_goes_only_if_all_of_it_is_held",
            ][..],
        ),
        (Fault::FollowsAlways, &["a_link_is_followed_or_described"]),
        (
            Fault::SetsThroughLinks,
            &["a_link_has_attributes_of_its_own"],
        ),
        (
            Fault::ReplacesInRename,
            &["a_taken_name_is_kept_or_replaced"],
        ),
        (
            Fault::MakesWhatMustBeThere,
            &[
                "what_is_opened_is_there_or_is_made",
                "what_must_or_must_not_be_there_is_looked_for_twice",
                "a_copy_replaces_as_a_whole_or_not_at_all",
            ],
        ),
        (
            Fault::TakesWhatMustNotBeThere,
            &[
                "what_is_opened_is_there_or_is_made",
                "what_must_or_must_not_be_there_is_looked_for_twice",
                "each_has_its_outcome_in_order",
            ],
        ),
        (
            Fault::ForgetsVersions,
            &["only_the_expected_version_is_replaced"],
        ),
        (
            Fault::ForgetsDigests,
            &["bytes_that_are_not_as_announced_are_not_kept"],
        ),
        (
            Fault::ForgetsResuming,
            &["a_cut_is_gone_on_with", "who_goes_on_is_who_began"],
        ),
        (
            Fault::ForgetsModes,
            &["mode_and_time_are_kept_or_given", "options_are_kept_to"],
        ),
        (
            Fault::AppendsWhereItIsTold,
            &["appended_is_at_the_end_whatever_the_offset"],
        ),
        (Fault::KeepsWhatIsTruncated, &["truncation_empties"]),
        (
            Fault::RemovesWholeTrees,
            &["each_kind_is_removed_as_what_it_is"],
        ),
        (Fault::DigestsAllOfIt, &["ranges_are_digested_alone"]),
        (
            Fault::PutsInReverse,
            &[
                "each_has_its_outcome_in_order",
                "one_path_twice_is_put_twice",
            ],
        ),
    ] {
        let mut broken = broken_rules(async || faulty(fault), rules).await;
        let mut expected = rules.to_vec();
        broken.sort_unstable();
        expected.sort_unstable();
        assert_eq!(broken, expected, "{fault:?}");
    }
}

#[test]
fn the_model_finds_planted_faults() {
    for fault in [
        Fault::FollowsAlways,
        Fault::SetsThroughLinks,
        Fault::ReplacesInRename,
        Fault::MakesWhatMustBeThere,
        Fault::TakesWhatMustNotBeThere,
        Fault::AppendsWhereItIsTold,
        Fault::KeepsWhatIsTruncated,
        Fault::RemovesWholeTrees,
    ] {
        let sequences = Sequences {
            count: 300,
            calls_max: 40,
            seed: 6,
            // That it is found is enough.
            shrinks_max: 0,
        };
        let make = move || async move { faulty(fault) }.boxed();
        let found = difference_to_the_model(make, sequences);
        assert!(found.is_some(), "{fault:?} was not found");
    }
}
