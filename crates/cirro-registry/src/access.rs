//! Who may do what.
//!
//! Who comes from the loopback is trusted: with no users configured, with everything; else with reading. Everybody else
//! says who they are, by a password or by a token that they got for one. Grants add to that; nothing takes away.

use std::net::SocketAddr;
use std::sync::Arc;

use cirro_image::distribution::RepositoryName;
use http::header;

use crate::config::{Action, Config, Grant};
use crate::error::Fault;
use crate::login::{Passwords, basic};
use crate::request::Head;
use crate::token::{Claims, Scope, Signer, expiry};

const SERVICE: &str = "cirro-registry";
const ANONYMOUS: &str = "anonymous";

/// What the configuration says of who may do what.
pub(crate) struct Access {
    passwords: Arc<Passwords>,
    signer: Signer,
    grants: Vec<Grant>,
    trust_loopback: bool,
    external_url: Option<String>,
}

/// Who sent a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Who {
    /// `None` for somebody who has not said it.
    user: Option<String>,
    loopback: bool,
    /// What their token is for. `None`: they have none.
    scopes: Option<Vec<Scope>>,
}

impl Access {
    pub(crate) fn new(config: &Config) -> Self {
        let hashes = config.user.iter().map(|user| (user.name.clone(), user.password_hash.clone())).collect();
        Self {
            passwords: Arc::new(Passwords::new(hashes)),
            signer: Signer::new(),
            grants: config.access.clone(),
            trust_loopback: config.trust_loopback.unwrap_or(true),
            external_url: config.external_url.clone(),
        }
    }

    /// Whether nobody has to say who they are on the loopback.
    fn is_open(&self) -> bool {
        self.passwords.is_empty() && self.trust_loopback
    }

    fn trusts(&self, peer: Option<SocketAddr>) -> bool {
        self.trust_loopback && peer.is_some_and(|peer| peer.ip().to_canonical().is_loopback())
    }

    /// Finds out who sent a request. A password or token that is wrong is refused, not ignored.
    pub(crate) async fn identify(&self, head: &Head) -> Result<Who, Fault> {
        let loopback = self.trusts(head.peer);
        let wrong = || self.challenge(head, None, Some("invalid_token"));
        let Some(authorization) = head.header(header::AUTHORIZATION) else {
            return Ok(Who { user: None, loopback, scopes: None });
        };
        if let Some(token) = authorization.strip_prefix("Bearer ") {
            let Claims { user, loopback: asked_there, access, .. } =
                self.signer.check(token).ok_or_else(wrong)?;
            return Ok(Who { user, loopback: loopback && asked_there, scopes: Some(access) });
        }
        let (user, password) = basic(authorization).ok_or_else(wrong)?;
        self.log_in(head, user, password).await
    }

    /// Finds out who has a name and a password.
    pub(crate) async fn log_in(&self, head: &Head, user: String, password: String) -> Result<Who, Fault> {
        let loopback = self.trusts(head.peer);
        let (passwords, name) = (Arc::clone(&self.passwords), user.clone());
        let right = crate::error::blocking(move || Ok(passwords.check(&name, &password))).await?;
        // A registry that has no users takes any name: clients send what they have for this host.
        if !(right || self.is_open() && loopback) {
            return Err(self.challenge(head, None, Some("invalid_token")));
        }
        Ok(Who { user: right.then_some(user), loopback, scopes: None })
    }

    /// Finds out who has an identity token.
    pub(crate) fn recognize(&self, head: &Head, token: &str) -> Result<Who, Fault> {
        let user = self.passwords.check_identity(token);
        let user = user.ok_or_else(|| self.challenge(head, None, Some("invalid_token")))?;
        Ok(Who { user: Some(user), loopback: self.trusts(head.peer), scopes: None })
    }

    /// Makes the identity token of somebody with a name.
    pub(crate) fn identity_token(&self, who: &Who) -> Option<String> {
        self.passwords.identity_token(who.user.as_deref()?)
    }

    /// Makes a token for what somebody may do of what they ask for; returns it with what it is for.
    pub(crate) fn grant(&self, who: Who, asked: &[String]) -> (String, Vec<Scope>) {
        let mut scopes = Scope::parse_all(asked);
        for scope in &mut scopes {
            let all = [Action::Pull, Action::Push, Action::Delete];
            let granted = all
                .into_iter()
                .filter(|action| scope.has(*action) && self.allows(&who, &scope.repository, *action));
            scope.actions = granted.map(|action| action.name().to_owned()).collect();
        }
        let claims =
            Claims { user: who.user, loopback: who.loopback, expires: expiry(), access: scopes.clone() };
        (self.signer.sign(&claims), scopes)
    }

    /// Whether somebody may do something, whatever their token is for.
    pub(crate) fn allows(&self, who: &Who, repository: &RepositoryName, action: Action) -> bool {
        let by_loopback = who.loopback && (self.passwords.is_empty() || action == Action::Pull);
        let by_default = self.grants.is_empty() && who.user.is_some();
        by_loopback || by_default || self.grants.iter().any(|grant| fits(grant, who, repository, action))
    }

    /// Refuses what somebody may not do; says how to become somebody who may.
    pub(crate) fn check(
        &self,
        head: &Head,
        who: &Who,
        repository: &RepositoryName,
        action: Action,
    ) -> Result<(), Fault> {
        self.check_offering(head, who, repository, action, action)
    }

    /// The same for whether a blob is there. That is how a push begins, so a token for pushing is offered: some clients
    /// (oras for Python) keep the first token that they get. Who may not push gets one for pulling all the same.
    pub(crate) fn check_probe(
        &self,
        head: &Head,
        who: &Who,
        repository: &RepositoryName,
    ) -> Result<(), Fault> {
        self.check_offering(head, who, repository, Action::Pull, Action::Push)
    }

    fn check_offering(
        &self,
        head: &Head,
        who: &Who,
        repository: &RepositoryName,
        action: Action,
        offered: Action,
    ) -> Result<(), Fault> {
        let allowed = self.allows(who, repository, action);
        let covered = match &who.scopes {
            Some(scopes) => scopes.iter().any(|scope| scope.repository == *repository && scope.has(action)),
            None => true,
        };
        if allowed && covered {
            return Ok(());
        }
        // Somebody with a name and without the right does not get it by asking again.
        if !allowed && who.user.is_some() {
            return Err(Fault::Denied);
        }
        let actions = match offered {
            Action::Push => "pull,push",
            action => action.name(),
        };
        let error = who.scopes.is_some().then_some("insufficient_scope");
        Err(self.challenge(head, Some(format!("repository:{repository}:{actions}")), error))
    }

    /// Answers `GET /v2/`: where there are users, clients must learn here that they can log in.
    pub(crate) fn check_base(&self, head: &Head, who: &Who) -> Result<(), Fault> {
        let is_known = who.user.is_some() || who.scopes.is_some();
        if is_known || self.is_open() && who.loopback {
            return Ok(());
        }
        Err(self.challenge(head, None, None))
    }

    fn challenge(&self, head: &Head, scope: Option<String>, error: Option<&str>) -> Fault {
        let base = match &self.external_url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => {
                let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '-' | '[' | ']');
                let host = head.header(header::HOST).filter(|host| host.chars().all(plain));
                format!("http://{}", host.unwrap_or("localhost"))
            }
        };
        let mut challenge = format!("Bearer realm=\"{base}/token\",service=\"{SERVICE}\"");
        if let Some(scope) = scope {
            challenge.push_str(&format!(",scope=\"{scope}\""));
        }
        if let Some(error) = error {
            challenge.push_str(&format!(",error=\"{error}\""));
        }
        Fault::Unauthorized { challenge }
    }
}

fn fits(grant: &Grant, who: &Who, repository: &RepositoryName, action: Action) -> bool {
    let is_meant = |name: &String| match &who.user {
        Some(user) => name == user || name == "*" || name == ANONYMOUS,
        None => name == ANONYMOUS,
    };
    grant.users.iter().any(is_meant)
        && grant.actions.contains(&action)
        && grant.repositories.matches(repository.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn access(text: &str) -> Access {
        Access::new(&Config::parse(text).unwrap())
    }

    fn who(user: Option<&str>, loopback: bool) -> Who {
        Who { user: user.map(str::to_owned), loopback, scopes: None }
    }

    fn may(access: &Access, who: &Who, name: &str) -> Vec<&'static str> {
        let name: RepositoryName = name.parse().unwrap();
        let all = [Action::Pull, Action::Push, Action::Delete];
        all.into_iter().filter(|action| access.allows(who, &name, *action)).map(Action::name).collect()
    }

    #[test]
    fn without_configuration_the_loopback_may_everything_and_others_nothing() {
        let access = access("");
        assert_eq!(may(&access, &who(None, true), "a"), ["pull", "push", "delete"]);
        assert!(may(&access, &who(None, false), "a").is_empty());
    }

    #[test]
    fn users_may_everything_until_grants_say_what() {
        let hash = "pbkdf2-sha256:1:BwcHBwcHBwcHBwcHBwcHBw:cxxer4Iqi9zTqJVHRecZxAoVB12ZzXwJ813RD6ATZS0";
        let users = format!("[[user]]\nname = \"ci\"\npassword-hash = \"{hash}\"\n");
        let open = access(&users);
        assert_eq!(may(&open, &who(Some("ci"), false), "a"), ["pull", "push", "delete"]);
        assert_eq!(may(&open, &who(None, true), "a"), ["pull"]);
        assert!(may(&open, &who(None, false), "a").is_empty());
        let granted = access(&format!(
            "{users}[[access]]\nrepositories = \"team/**\"\nusers = [\"ci\"]\nactions = [\"push\"]\n\
             [[access]]\nrepositories = \"public/*\"\nusers = [\"anonymous\"]\nactions = [\"pull\"]\n"
        ));
        assert_eq!(may(&granted, &who(Some("ci"), false), "team/a/b"), ["push"]);
        assert!(may(&granted, &who(Some("ci"), false), "other").is_empty());
        assert_eq!(may(&granted, &who(Some("ci"), false), "public/x"), ["pull"]);
        assert_eq!(may(&granted, &who(None, false), "public/x"), ["pull"]);
        assert!(may(&granted, &who(None, false), "team/a").is_empty());
    }
}
