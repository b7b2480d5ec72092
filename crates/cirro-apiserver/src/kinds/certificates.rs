//! certificates.k8s.io/v1: requests for certificates.
//!
//! Source: `pkg/apis/certificates/validation/validation.go`, `pkg/registry/certificates/certificates/strategy.go`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::error::Causes;
use crate::json;
use crate::pki::issue::{SigningRequest, Usages};
use crate::registry::{Kind, Strategy, Subresource};
use crate::table::certificates as columns;
use crate::validate;

/// Shortest life of a certificate.
const SHORTEST: i64 = 600;

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::cluster("certificates.k8s.io", "v1", "CertificateSigningRequest", "certificatesigningrequests")
            .short(&["csr"])
            .schema("io.k8s.api.certificates.v1.CertificateSigningRequest")
            .subresources(&[Subresource::Status, Subresource::Approval])
            .selectable(&["spec.signerName"])
            .columns(columns::request())
            .strategy(&Request),
    ]
}

struct Request;

impl Strategy for Request {
    fn prepare_update(&self, object: &mut Value, old: &Value) {
        // Fixed at creation, silently, as upstream.
        object["spec"] = old["spec"].clone();
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        let pem = STANDARD.decode(json::text(object, "spec.request")).unwrap_or_default();
        if let Err(why) = SigningRequest::read(&pem) {
            causes.invalid("spec.request", &object["spec"]["request"], &why);
        }
        let usages = json::array(object, "spec.usages");
        if usages.is_empty() {
            causes.required("spec.usages", "");
        }
        for (index, usage) in usages.iter().enumerate() {
            let name = usage.as_str().unwrap_or_default();
            // Known to Kubernetes, and to no signer of this cloud.
            let known = ["any", "microsoft sgc", "netscape sgc"].contains(&name);
            if !known && Usages::read([name].into_iter()).is_err() {
                causes.invalid(&format!("spec.usages[{index}]"), usage, "unknown usage");
            }
        }
        match json::text(object, "spec.signerName").split_once('/') {
            _ if json::text(object, "spec.signerName").is_empty() => causes.required("spec.signerName", ""),
            Some((domain, path))
                if domain.contains('.') && validate::is_qualified_name(&format!("{domain}/{path}")) => {}
            _ => {
                let what = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
                causes.invalid("spec.signerName", &object["spec"]["signerName"], what);
            }
        }
        if let Some(seconds) =
            json::number(object, "spec.expirationSeconds").filter(|seconds| *seconds < SHORTEST)
        {
            let what = format!("may not specify a duration less than {SHORTEST} seconds (10 minutes)");
            causes.invalid("spec.expirationSeconds", &seconds.into(), &what);
        }
    }
}
