//! batch/v1: Job and CronJob.
//!
//! Source: `pkg/apis/batch/v1/defaults.go`, `pkg/apis/batch/validation`, `pkg/registry/batch`.

use serde_json::{Value, json};

use super::pod::pod_spec_defaults;
use super::workload::template;
use crate::error::Causes;
use crate::json::{self, set_default};
use crate::registry::{Kind, Strategy, Subresource};
use crate::table::batch as columns;
use crate::validate::fields::{one_of, required_one_of};
use crate::validate::{self, cron, selector};

/// Returns the kinds.
pub(crate) fn kinds() -> Vec<Kind> {
    vec![
        Kind::namespaced("batch", "v1", "Job", "jobs")
            .category("all")
            .schema("io.k8s.api.batch.v1.Job")
            .subresources(&[Subresource::Status])
            .selectable(&["status.successful"])
            .columns(columns::job())
            .strategy(&Job),
        Kind::namespaced("batch", "v1", "CronJob", "cronjobs")
            .short(&["cj"])
            .category("all")
            .schema("io.k8s.api.batch.v1.CronJob")
            .subresources(&[Subresource::Status])
            .columns(columns::cron_job())
            .view(super::retired::cron_job_view())
            .strategy(&CronJob),
    ]
}

struct Job;

impl Strategy for Job {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        if object["spec"].is_object() {
            labels_of_template(object);
            job_spec_defaults(&mut object["spec"]);
        }
    }

    fn named(&self, object: &mut Value) {
        if object["spec"].is_object() && object["spec"]["manualSelector"] != true {
            generate_selector(object);
            // Upstream fills them in when it reads the object back.
            labels_of_template(object);
        }
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        if json::at(object, "spec.selector").is_none() {
            causes.required("spec.selector", "");
        } else {
            selector::check("spec.selector", &object["spec"]["selector"], causes);
            let labels = json::at(object, "spec.template.metadata.labels");
            if !selector::matches(&object["spec"]["selector"], labels) {
                let labels = labels.cloned().unwrap_or_else(|| json!({}));
                let detail = "`selector` does not match template `labels`";
                causes.invalid("spec.template.metadata.labels", &labels, detail);
            }
        }
        job_spec("spec", object, causes);
    }

    fn validate_update(&self, object: &Value, old: &Value, causes: &mut Causes) {
        let members = [
            "selector",
            "completionMode",
            "podFailurePolicy",
            "backoffLimitPerIndex",
            "managedBy",
            "successPolicy",
        ];
        for member in members {
            validate::immutable(&format!("spec.{member}"), object, old, causes);
        }
        let spec = &object["spec"];
        // An indexed job that runs as many at once as there are may be grown and shrunk.
        let elastic = spec["completionMode"] == "Indexed" && spec["completions"] == spec["parallelism"];
        if !elastic {
            validate::immutable("spec.completions", object, old, causes);
        }
        let suspended = old["spec"]["suspend"] == true && json::at(old, "status.startTime").is_none();
        let template = |object: &Value| fixed_template(object, suspended);
        if template(object) != template(old) {
            causes.invalid("spec.template", &object["spec"]["template"], "field is immutable");
        }
    }
}

/// Returns what of a job's template may not change: of a suspended job that never ran, all but where it runs.
fn fixed_template(object: &Value, suspended: bool) -> Value {
    let mut template = object["spec"]["template"].clone();
    if suspended {
        for member in ["labels", "annotations"] {
            json::object_mut(&mut template, "metadata").remove(member);
        }
        for member in ["nodeSelector", "affinity", "tolerations", "schedulingGates"] {
            json::object_mut(&mut template, "spec").remove(member);
        }
    }
    template
}

fn job_spec_defaults(spec: &mut Value) {
    // Both absent means one pod; one absent means a work queue.
    if spec["completions"].is_null() && spec["parallelism"].is_null() {
        set_default(spec, "completions", 1);
    }
    set_default(spec, "parallelism", 1);
    let limit = if spec["backoffLimitPerIndex"].is_null() { 6 } else { i32::MAX };
    set_default(spec, "backoffLimit", limit);
    set_default(spec, "completionMode", "NonIndexed");
    set_default(spec, "suspend", false);
    set_default(spec, "manualSelector", false);
    let replacement = if spec["podFailurePolicy"].is_null() { "TerminatingOrFailed" } else { "Failed" };
    set_default(spec, "podReplacementPolicy", replacement);
    for rule in json::elements_mut(spec, "podFailurePolicy.rules") {
        for pattern in json::elements_mut(rule, "onPodConditions") {
            set_default(pattern, "status", "True");
        }
    }
    for member in ["completions", "podFailurePolicy", "backoffLimitPerIndex"] {
        if spec[member].is_null() {
            json::remove(spec, member);
        }
    }
    pod_spec_defaults(&mut spec["template"]["spec"]);
}

/// Gives a job without labels those of its pods.
fn labels_of_template(object: &mut Value) {
    let labels = json::at(object, "spec.template.metadata.labels").cloned();
    if json::object(object, "metadata.labels").is_none_or(serde_json::Map::is_empty)
        && let Some(labels) = labels
    {
        json::object_mut(object, "metadata").insert("labels".into(), labels);
    }
}

/// Labels the template with the job's uid and name, and selects by the uid.
fn generate_selector(object: &mut Value) {
    let (uid, name) = (json::text(object, "metadata.uid").to_owned(), json::name(object).to_owned());
    let spec = &mut object["spec"];
    json::object_mut(spec, "template");
    json::object_mut(&mut spec["template"], "metadata");
    let labels = json::object_mut(&mut spec["template"]["metadata"], "labels");
    for prefix in ["", "batch.kubernetes.io/"] {
        labels.insert(format!("{prefix}controller-uid"), uid.clone().into());
        labels.insert(format!("{prefix}job-name"), name.clone().into());
    }
    json::object_mut(spec, "selector");
    let labels = json::object_mut(&mut spec["selector"], "matchLabels");
    labels.insert("batch.kubernetes.io/controller-uid".into(), uid.into());
}

/// Checks the spec of a job below `field`.
fn job_spec(field: &str, object: &Value, causes: &mut Causes) {
    let at = |member: &str| format!("{field}.{member}");
    for member in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        validate::not_negative(&at(member), object, causes);
    }
    one_of(&at("completionMode"), object, &["NonIndexed", "Indexed"], causes);
    one_of(&at("podReplacementPolicy"), object, &["Failed", "TerminatingOrFailed"], causes);
    let spec = json::at(object, field).unwrap_or(&Value::Null);
    if spec["completionMode"] == "Indexed" {
        if json::number(spec, "completions").is_none() {
            causes.required(&at("completions"), "when completion mode is Indexed");
        }
        if json::number(spec, "parallelism").is_some_and(|count| count > 100_000) {
            let detail = "must be less than or equal to 100000 when completion mode is Indexed";
            causes.invalid(&at("parallelism"), &spec["parallelism"], detail);
        }
    } else {
        for member in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if json::number(spec, member).is_some() {
                causes.invalid(&at(member), &spec[member], "requires indexed completion mode");
            }
        }
    }
    if spec["podReplacementPolicy"] == "TerminatingOrFailed" && json::at(spec, "podFailurePolicy").is_some() {
        let value = &spec["podReplacementPolicy"];
        causes.unsupported(&at("podReplacementPolicy"), value, &["Failed"]);
    }
    template(&at("template"), &spec["template"], causes);
    let policy = json::text(spec, "template.spec.restartPolicy");
    match policy {
        "Always" | "" => {
            causes.required(&at("template.spec.restartPolicy"), "valid values: \"OnFailure\", \"Never\"");
        }
        "OnFailure" if json::at(spec, "podFailurePolicy").is_some() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            causes.invalid(&at("template.spec.restartPolicy"), &policy.into(), detail);
        }
        "OnFailure" | "Never" => {}
        other => {
            let field = at("template.spec.restartPolicy");
            causes.unsupported(&field, &other.into(), &["OnFailure", "Never"]);
        }
    }
}

struct CronJob;

impl Strategy for CronJob {
    fn has_generation(&self) -> bool {
        true
    }

    fn defaults(&self, object: &mut Value) {
        let spec = &mut object["spec"];
        if !spec.is_object() {
            return;
        }
        set_default(spec, "concurrencyPolicy", "Allow");
        set_default(spec, "suspend", false);
        set_default(spec, "successfulJobsHistoryLimit", 3);
        set_default(spec, "failedJobsHistoryLimit", 1);
        pod_spec_defaults(&mut spec["jobTemplate"]["spec"]["template"]["spec"]);
    }

    fn validate(&self, object: &Value, causes: &mut Causes) {
        // The names of its jobs have eleven characters more, and are labels.
        let name = json::name(object);
        if name.len() > 52 {
            causes.invalid("metadata.name", &name.into(), "must be no more than 52 characters");
        }
        let schedule = json::text(object, "spec.schedule");
        if schedule.is_empty() {
            causes.required("spec.schedule", "");
        } else if let Err(why) = cron::check(schedule) {
            causes.invalid("spec.schedule", &schedule.into(), &why);
        }
        if schedule.contains("TZ") {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            causes.invalid("spec.schedule", &schedule.into(), detail);
        }
        if let Some(zone) = json::at(object, "spec.timeZone").and_then(Value::as_str) {
            time_zone(zone, causes);
        }
        required_one_of("spec.concurrencyPolicy", object, &["Allow", "Forbid", "Replace"], causes);
        for member in ["startingDeadlineSeconds", "successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            validate::not_negative(&format!("spec.{member}"), object, causes);
        }
        if json::at(object, "spec.jobTemplate.spec.selector").is_some() {
            let value = &object["spec"]["jobTemplate"]["spec"]["selector"];
            causes.invalid("spec.jobTemplate.spec.selector", value, "`selector` will be auto-generated");
        }
        if json::at(object, "spec.jobTemplate.spec.manualSelector") == Some(&Value::Bool(true)) {
            let field = "spec.jobTemplate.spec.manualSelector";
            causes.unsupported(field, &true.into(), &["nil", "false"]);
        }
        job_spec("spec.jobTemplate.spec", object, causes);
    }
}

fn time_zone(zone: &str, causes: &mut Causes) {
    if zone.is_empty() {
        causes.invalid("spec.timeZone", &zone.into(), "timeZone must be nil or non-empty string");
    } else if zone.eq_ignore_ascii_case("Local") {
        causes.invalid(
            "spec.timeZone",
            &zone.into(),
            "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
        );
    } else if jiff::tz::TimeZone::get(zone).is_err() {
        causes.invalid("spec.timeZone", &zone.into(), &format!("unknown time zone {zone}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "j", "uid": "u"}, "spec": {"template": {"spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}});
        for (key, value) in spec.as_object().unwrap() {
            object["spec"][key] = value.clone();
        }
        Job.defaults(&mut object);
        Job.named(&mut object);
        object
    }

    fn faults(object: &Value) -> String {
        let mut causes = Causes::default();
        Job.validate(object, &mut causes);
        format!("{causes:?}")
    }

    #[test]
    fn a_plain_job_selects_its_pods_by_uid() {
        let object = job(json!({}));
        assert_eq!(faults(&object), "Causes([])");
        let spec = &object["spec"];
        assert_eq!((&spec["completions"], &spec["backoffLimit"]), (&json!(1), &json!(6)));
        assert_eq!(spec["selector"]["matchLabels"]["batch.kubernetes.io/controller-uid"], "u");
        assert_eq!(spec["template"]["metadata"]["labels"]["job-name"], "j");
    }

    #[test]
    fn a_job_never_restarts_always() {
        let mut object = job(json!({"parallelism": 2}));
        assert_eq!(object["spec"].get("completions"), None);
        object["spec"]["template"]["spec"]["restartPolicy"] = "Always".into();
        assert!(faults(&object).contains("valid values: \\\"OnFailure\\\", \\\"Never\\\""));
        let object = job(json!({"completionMode": "Indexed", "parallelism": 2}));
        assert!(faults(&object).contains("when completion mode is Indexed"));
    }

    #[test]
    fn a_jobs_template_is_fixed_once_it_runs() {
        let old = job(json!({}));
        let mut new = old.clone();
        new["spec"]["template"]["spec"]["nodeSelector"] = json!({"a": "b"});
        let mut causes = Causes::default();
        Job.validate_update(&new, &old, &mut causes);
        assert!(format!("{causes:?}").contains("spec.template"));
        let mut suspended = old;
        suspended["spec"]["suspend"] = true.into();
        let mut causes = Causes::default();
        Job.validate_update(&new, &suspended, &mut causes);
        assert!(causes.is_empty(), "{causes:?}");
    }
}
