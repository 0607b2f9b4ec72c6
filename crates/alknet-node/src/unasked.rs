//! Grants that nothing asks for, which are often misspelt ones.

use alknet_core::{
    Access, AccessControl, GrantTarget, Registry, ResourceKind, Role, RoleSet, Scope, nearest,
};
use std::collections::BTreeSet;

/// What the operations of this node ask for.
pub(crate) struct Asked {
    scopes: BTreeSet<String>,
    actions: BTreeSet<(ResourceKind, String)>,
}

impl Asked {
    pub(crate) fn by(registry: &Registry) -> Self {
        let view = registry.view();
        let mut asked = Self {
            scopes: BTreeSet::new(),
            actions: BTreeSet::new(),
        };
        for entry in view.local() {
            if let Access::Rule(rule) = &entry.spec().access {
                asked.add(rule);
            }
        }
        asked
    }

    /// Tells the log what configured roles give and nothing asks for.
    pub(crate) fn warn_of_roles(&self, roles: &RoleSet) {
        let configured = |role: &&Role| !RoleSet::is_builtin(role.name.as_str());
        for role in roles.iter().filter(configured) {
            for doubt in role.grants.iter().flat_map(|target| self.doubts(target)) {
                tracing::warn!(role = %role.name, "{doubt}");
            }
        }
    }

    fn add(&mut self, rule: &AccessControl) {
        let scopes = rule.scopes_all.iter().chain(&rule.scopes_any);
        self.scopes.extend(scopes.map(ToString::to_string));
        let actions = rule.resources.iter();
        self.actions
            .extend(actions.map(|rule| (rule.kind, rule.action.clone())));
    }

    /// A sentence for each part of the grant that no operation asks for. It
    /// may come later, or be asked for by a protocol of one's own: no error.
    pub(crate) fn doubts(&self, target: &GrantTarget) -> Vec<String> {
        match target {
            GrantTarget::Scope(scope) => self.doubt_scope(scope).into_iter().collect(),
            GrantTarget::Resource(grant) | GrantTarget::Deny(grant) => {
                let kind = grant.pattern.kind();
                grant
                    .actions
                    .iter()
                    .filter_map(|action| self.doubt_action(kind, action, target))
                    .collect()
            }
            GrantTarget::Role(_) | GrantTarget::Operation(_) => Vec::new(),
        }
    }

    fn doubt_scope(&self, scope: &Scope) -> Option<String> {
        let text = scope.as_str();
        let is_asked = match text.strip_suffix('*') {
            Some(stem) => self.scopes.iter().any(|asked| asked.starts_with(stem)),
            None => self.scopes.contains(text),
        };
        let meant = || meant(text, self.scopes.iter().map(String::as_str));
        (!is_asked).then(|| format!("no operation here asks for the scope `{text}`{}", meant()))
    }

    /// What peers offer comes and goes, so their operations are not judged;
    /// nor is a kind that only protocols ask for.
    fn doubt_action(
        &self,
        kind: ResourceKind,
        action: &str,
        target: &GrantTarget,
    ) -> Option<String> {
        let of_kind = self.actions.iter().filter(|(asked, _)| *asked == kind);
        let known: Vec<&str> = of_kind.map(|(_, action)| action.as_str()).collect();
        let is_judged = kind != ResourceKind::Peer && action != "*" && !known.is_empty();
        (is_judged && !known.contains(&action)).then(|| {
            let meant = meant(action, known.iter().copied());
            format!("no operation here asks to {action} a {kind}, as in `{target}`{meant}")
        })
    }
}

fn meant<'n>(wanted: &str, known: impl IntoIterator<Item = &'n str>) -> String {
    match nearest(wanted, known).first() {
        Some(near) => format!("; did you mean `{near}`?"),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use alknet_core::{CallError, Context, Operation};
    use serde_json::Value;

    fn asked() -> Asked {
        let brew = Operation::mutation("coffee/brew", "Brews.")
            .requires("coffee:brew-cups")
            .resource("topic", "write", "/cup")
            .input_schema(alknet_core::Schema::any())
            .handler(|_cx: Context, input: Value| async move { Ok::<_, CallError>(input) });
        let registry = Registry::new();
        registry.register(vec![brew]).unwrap();
        Asked::by(&registry)
    }

    #[track_caller]
    fn check(target: &str, want: &[&str]) {
        assert_eq!(asked().doubts(&GrantTarget::parse(target).unwrap()), want);
    }

    #[test]
    fn what_nothing_asks_for_is_doubted_with_what_was_meant() {
        check(
            "cofee:brew-cups",
            &[
                "no operation here asks for the scope `cofee:brew-cups`; did you mean `coffee:brew-cups`?",
            ],
        );
        check("cake:*", &["no operation here asks for the scope `cake:*`"]);
        check(
            "topic:family/**=wirte",
            &[
                "no operation here asks to wirte a topic, as in `topic:family/**=wirte`; did you mean `write`?",
            ],
        );
        check(
            "!topic:family/**=read,write",
            &["no operation here asks to read a topic, as in `!topic:family/**=read,write`"],
        );
    }

    #[test]
    fn what_is_asked_for_or_not_for_this_node_to_judge_is_not_doubted() {
        for fine in [
            "coffee:brew-cups",
            "coffee:*",
            "*",
            "topic:family/**=write",
            "topic:family/**=*",
            "peer:nas=fs/*",
            "bucket:www=read",
            "coffee/brew",
            "editor",
        ] {
            check(fine, &[]);
        }
    }
}
