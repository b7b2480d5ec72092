//! Approving signing requests, and issuing what was approved.
//!
//! Upstream's signer runs beside the server and issues a moment after the approval; here the approval's
//! own write carries the certificate.
//!
//! Source: `pkg/controller/certificates/signer/signer.go`, `plugin/pkg/admission/certificates`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cirro_seams::api::ApiError;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::asker;
use crate::auth::User;
use crate::error::{self, Causes};
use crate::identity;
use crate::json;
use crate::pki::Pki;
use crate::pki::issue::{SigningRequest, Usages};
use crate::rbac::Access;
use crate::registry::Kind;
use crate::storage::{Place, Storage};

pub(crate) const GROUP: &str = "certificates.k8s.io";
const YEAR: i64 = 365 * 24 * 3600;
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";

/// Notes who asks for a certificate, and refuses one that would make its owner a master.
pub(crate) fn admit(kind: &Kind, request: &mut Value) -> Result<(), ApiError> {
    let user = asker::current().map_or_else(User::internal, |user| (*user).clone());
    let spec = json::object_mut(request, "spec");
    for member in ["uid", "extra"] {
        spec.remove(member);
    }
    spec.insert("username".into(), user.name.into());
    spec.insert("groups".into(), user.groups.into());
    if !user.uid.is_empty() {
        spec.insert("uid".into(), user.uid.into());
    }
    if !user.extra.is_empty() {
        spec.insert("extra".into(), json!(user.extra));
    }
    let pem = STANDARD.decode(json::text(request, "spec.request")).unwrap_or_default();
    if json::text(request, "spec.signerName") == CLIENT
        && let Ok(asked) = SigningRequest::read(&pem)
        && asked.groups.iter().any(|group| group == User::MASTERS)
    {
        let what = format!("use of {CLIENT} signer with system:masters group is not allowed");
        return Err(error::forbidden(kind, json::name(request), &what));
    }
    Ok(())
}

impl Storage {
    /// Checks that the one who asks may approve for the signer of the request at `place`.
    ///
    /// # Errors
    /// 403 when he may not.
    pub(crate) async fn check_signer(&self, place: Place<'_>, verb: &str) -> Result<(), ApiError> {
        let Some(user) = asker::current() else { return Ok(()) };
        let request = self.get(place).await?;
        let signer = json::text(&request, "spec.signerName");
        let domain = signer.split_once('/').map_or("", |(domain, _)| domain);
        for name in [signer.to_owned(), format!("{domain}/*")] {
            let access = Access::to_resource(verb, GROUP, "signers", "", "", &name);
            if self.decide(&user, &access).await?.allowed {
                return Ok(());
            }
        }
        let what = format!("user not permitted to {verb} requests with signerName {signer:?}");
        Err(error::forbidden(place.kind, place.name, &what))
    }
}

/// Returns a request with the conditions of `wanted`, and with its certificate once it is approved.
///
/// # Errors
/// 422 for conditions that contradict each other or take back what was said.
pub(crate) fn approved(
    kind: &Kind,
    old: &Value,
    wanted: &Value,
    pki: Option<&Pki>,
) -> Result<Value, ApiError> {
    let mut conditions = json::array(wanted, "status.conditions").to_vec();
    let before = json::array(old, "status.conditions");
    let mut causes = Causes::default();
    validate(&conditions, before, &mut causes);
    if !causes.is_empty() {
        return Err(error::invalid(kind, json::name(old), causes));
    }
    let now = identity::now();
    for condition in &mut conditions {
        json::set_default(condition, "lastUpdateTime", now.clone());
        json::set_default(condition, "lastTransitionTime", now.clone());
    }
    let mut next = old.clone();
    next["metadata"]["resourceVersion"] = wanted["metadata"]["resourceVersion"].clone();
    let is = |kind: &str| conditions.iter().any(|one| json::text(one, "type") == kind);
    let due =
        is("Approved") && !is("Denied") && !is("Failed") && json::text(old, "status.certificate").is_empty();
    let issued = if due { pki.and_then(|pki| issue(pki, &old["spec"])) } else { None };
    if let Some(Err(why)) = &issued {
        conditions.push(json!({"type": "Failed", "status": "True", "reason": "SignerValidationFailure",
            "message": why, "lastUpdateTime": now, "lastTransitionTime": now}));
    }
    let status = json::object_mut(&mut next, "status");
    status.insert("conditions".into(), conditions.into());
    if let Some(Ok(certificate)) = issued {
        status.insert("certificate".into(), STANDARD.encode(certificate).into());
    }
    Ok(next)
}

fn validate(conditions: &[Value], before: &[Value], causes: &mut Causes) {
    let of = |list: &[Value], kind: &str| list.iter().filter(|one| json::text(one, "type") == kind).count();
    for (index, condition) in conditions.iter().enumerate() {
        let field = format!("status.conditions[{index}]");
        let (kind, status) = (json::text(condition, "type"), json::text(condition, "status"));
        if kind.is_empty() {
            causes.required(&format!("{field}.type"), "");
        }
        if of(conditions, kind) > 1 {
            causes.duplicate(&format!("{field}.type"), &kind.into());
        }
        if status.is_empty() {
            causes.required(&format!("{field}.status"), "");
        } else if ["Approved", "Denied", "Failed"].contains(&kind) && status != "True" {
            causes.unsupported(&format!("{field}.status"), &status.into(), &["True"]);
        }
    }
    if of(conditions, "Approved") > 0 && of(conditions, "Denied") > 0 {
        let what = "Approved and Denied conditions are mutually exclusive";
        causes.invalid("status.conditions", &"Denied".into(), what);
    }
    for kind in ["Approved", "Denied", "Failed"] {
        if of(before, kind) > 0 && of(conditions, kind) == 0 {
            let what = format!("updates may not remove a condition of type {kind:?}");
            causes.forbidden("status.conditions", &what);
        }
    }
}

/// Issues what a request asks of a signer of this cloud; `None` for another's.
fn issue(pki: &Pki, spec: &Value) -> Option<Result<String, String>> {
    let signer = json::text(spec, "signerName");
    let (needs, allowed): (&str, &[&str]) = match signer {
        CLIENT | KUBELET_CLIENT => ("client auth", &["digital signature", "key encipherment", "client auth"]),
        KUBELET_SERVING => ("server auth", &["digital signature", "key encipherment", "server auth"]),
        _ => return None,
    };
    let usages: Vec<_> = json::array(spec, "usages").iter().filter_map(Value::as_str).collect();
    let issued = || {
        let pem = STANDARD.decode(json::text(spec, "request")).map_err(|why| why.to_string())?;
        let request = SigningRequest::read(&pem)?;
        if !usages.contains(&needs) || usages.iter().any(|usage| !allowed.contains(usage)) {
            return Err(format!("usages did not match {allowed:?} with {needs:?}"));
        }
        check_subject(signer, &request)?;
        let asked = json::number(spec, "expirationSeconds").unwrap_or(YEAR).min(YEAR);
        pki.issue(&request, &Usages::read(usages.iter().copied())?, SignedDuration::from_secs(asked))
    };
    Some(issued())
}

fn check_subject(signer: &str, request: &SigningRequest) -> Result<(), String> {
    if signer == CLIENT {
        return Ok(());
    }
    if request.groups != ["system:nodes"] {
        return Err("subject organization is not system:nodes".into());
    }
    if !request.name.starts_with("system:node:") {
        return Err("subject common name does not begin with system:node:".into());
    }
    if request.names_others {
        return Err("only DNS and IP subjectAltNames are allowed".into());
    }
    match (signer == KUBELET_SERVING, request.names_hosts) {
        (true, false) => Err("at least one DNS or IP subjectAltName is required".into()),
        (false, true) => Err("DNS and IP subjectAltNames are not allowed".into()),
        _ => Ok(()),
    }
}
