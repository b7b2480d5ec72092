//! Who may do what: roles, bindings, reviews, impersonation.

use std::sync::Arc;

use axum::body::Body;
use cirro_apiserver::{ApiServer, Options, User};
use cirro_store::MemoryObjectStore;
use serde_json::{Value, json};

use crate::fixture::{Answer, admin, read, request, send, server};
use crate::kubectl::Cluster;

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

fn user(name: &str, groups: &[&str]) -> User {
    let groups = groups.iter().chain(&["system:authenticated"]).map(|group| (*group).to_owned()).collect();
    User { name: name.into(), groups, ..User::default() }
}

async fn ask(server: &ApiServer, user: &User, method: &str, path: &str, body: &Value) -> Answer {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    read(server.respond(user, request(method, path, "application/json", body)).await).await
}

async fn code(server: &ApiServer, user: &User, method: &str, path: &str) -> u16 {
    ask(server, user, method, path, &Value::Null).await.code
}

fn role(name: &str, verbs: &[&str], resources: &[&str], names: &[&str]) -> Value {
    json!({"metadata": {"name": name},
        "rules": [{"verbs": verbs, "apiGroups": [""], "resources": resources, "resourceNames": names}]})
}

fn binding(name: &str, kind: &str, role: &str, subject: Value) -> Value {
    json!({"metadata": {"name": name}, "roleRef": {"kind": kind, "name": role}, "subjects": [subject]})
}

async fn must(server: &ApiServer, path: &str, object: &Value) {
    let created = send(server, "POST", &format!("{RBAC}/{path}"), object).await;
    assert_eq!(created.code, 201, "{}", created.body);
}

#[tokio::test]
async fn strangers_see_what_is_public_and_nothing_else() {
    let server = server().await;
    let nobody = User::anonymous();
    for path in ["/readyz", "/version"] {
        assert_eq!(code(&server, &nobody, "GET", path).await, 200, "{path}");
    }
    let refused = ask(&server, &nobody, "GET", "/api/v1/nodes", &Value::Null).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.body["message"],
        "nodes is forbidden: User \"system:anonymous\" cannot list resource \"nodes\" in API group \"\" at the cluster scope"
    );
    assert_eq!(refused.body["details"], json!({"kind": "nodes"}));
    let jane = user("jane", &[]);
    for (path, wanted) in [("/apis", 200), ("/openapi/v3", 200), ("/api/v1/nodes", 403), ("/metrics", 403)] {
        assert_eq!(code(&server, &jane, "GET", path).await, wanted, "{path}");
    }
    // What does not exist is not told from what one may not see.
    assert_eq!(code(&server, &jane, "GET", "/api/v1/nothings").await, 403);
}

#[tokio::test]
async fn a_grant_holds_at_once_and_ends_at_once() {
    let server = server().await;
    let jane = user("jane", &["devs"]);
    let pods = "/api/v1/namespaces/default/pods";
    let in_default = "namespaces/default";
    must(&server, &format!("{in_default}/roles"), &role("readers", &["list", "get"], &["pods"], &[])).await;
    for round in 0..3 {
        assert_eq!(code(&server, &jane, "GET", pods).await, 403, "round {round}");
        let bound = binding("b", "Role", "readers", json!({"kind": "Group", "name": "devs"}));
        must(&server, &format!("{in_default}/rolebindings"), &bound).await;
        assert_eq!(code(&server, &jane, "GET", pods).await, 200, "round {round}");
        assert_eq!(code(&server, &jane, "GET", "/api/v1/namespaces/kube-system/pods").await, 403);
        assert_eq!(code(&server, &jane, "GET", &format!("{pods}?watch=true")).await, 403);
        let gone =
            send(&server, "DELETE", &format!("{RBAC}/{in_default}/rolebindings/b"), &Value::Null).await;
        assert_eq!(gone.code, 200);
    }
}

/// Every member of a rule by itself, as `kubectl auth can-i` would ask.
#[tokio::test]
async fn names_subresources_and_scopes_are_told_apart() {
    let server = server().await;
    let by = |name: &str| json!({"kind": "User", "name": name});
    must(&server, "clusterroles", &role("one", &["get"], &["configmaps"], &["mine"])).await;
    must(&server, "clusterrolebindings", &binding("one", "ClusterRole", "one", by("a"))).await;
    must(&server, "clusterroles", &role("logs", &["get"], &["pods/log"], &[])).await;
    must(&server, "namespaces/default/rolebindings", &binding("logs", "ClusterRole", "logs", by("b"))).await;
    let account = json!({"kind": "ServiceAccount", "name": "robot", "namespace": "default"});
    must(&server, "clusterrolebindings", &binding("robot", "ClusterRole", "logs", account)).await;
    let path = "/api/v1/namespaces/default/";
    let robot = user("system:serviceaccount:default:robot", &[]);
    for (user, rest, wanted) in [
        (user("a", &[]), "configmaps/mine", 404),
        (user("a", &[]), "configmaps/other", 403),
        (user("a", &[]), "configmaps", 403),
        (user("a", &[]), "configmaps?fieldSelector=metadata.name%3Dmine", 403),
        (user("b", &[]), "pods/x/log", 404),
        (user("b", &[]), "pods/x", 403),
        (user("b", &[]), "pods/x/exec", 403),
        (robot, "pods/x/log", 404),
        (user("system:serviceaccount:other:robot", &[]), "pods/x/log", 403),
    ] {
        assert_eq!(
            code(&server, &user, "GET", &format!("{path}{rest}")).await,
            wanted,
            "{} {rest}",
            user.name
        );
    }
    assert_eq!(code(&server, &user("b", &[]), "GET", "/api/v1/namespaces/kube-system/pods/x/log").await, 403);
}

#[tokio::test]
async fn nobody_grants_what_he_does_not_hold() {
    let server = server().await;
    let jane = user("jane", &[]);
    let own = json!({"metadata": {"name": "own"}, "rules": [
        {"verbs": ["*"], "apiGroups": ["rbac.authorization.k8s.io"], "resources": ["roles", "rolebindings"]},
        {"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]});
    let mut own = own;
    own["rules"][0]["verbs"] = json!(["create", "update", "patch", "get", "delete"]);
    must(&server, "namespaces/default/roles", &own).await;
    let subject = json!({"kind": "User", "name": "jane"});
    must(&server, "namespaces/default/rolebindings", &binding("own", "Role", "own", subject.clone())).await;
    let roles = format!("{RBAC}/namespaces/default/roles");
    let bindings = format!("{RBAC}/namespaces/default/rolebindings");
    let held = role("held", &["get"], &["pods"], &["x"]);
    assert_eq!(ask(&server, &jane, "POST", &roles, &held).await.code, 201);
    let refused = ask(&server, &jane, "POST", &roles, &role("more", &["get", "list"], &["pods"], &[])).await;
    assert_eq!(refused.code, 403);
    assert_eq!(
        refused.body["message"],
        "roles.rbac.authorization.k8s.io \"more\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"list\"]}"
    );
    let wider = role("held", &["*"], &["pods"], &[]);
    let replaced = ask(&server, &jane, "PUT", &format!("{roles}/held"), &wider).await;
    assert_eq!(replaced.code, 403);
    let admin_role = binding("up", "ClusterRole", "cluster-admin", subject.clone());
    assert_eq!(ask(&server, &jane, "POST", &bindings, &admin_role).await.code, 403);
    let absent = binding("absent", "Role", "absent", subject.clone());
    assert_eq!(ask(&server, &jane, "POST", &bindings, &absent).await.code, 404);
    // The verbs `bind` and `escalate` are the ways around it.
    let mut wide = own.clone();
    wide["rules"][0]["verbs"] = json!(["create", "get", "bind", "escalate"]);
    wide["rules"][0]["resources"] = json!(["roles", "rolebindings", "clusterroles"]);
    let widened = send(&server, "PUT", &format!("{roles}/own"), &wide).await;
    assert_eq!(widened.code, 200, "{}", widened.body);
    assert_eq!(ask(&server, &jane, "POST", &bindings, &admin_role).await.code, 201);
    let more = role("more", &["get", "list"], &["pods"], &[]);
    assert_eq!(ask(&server, &jane, "POST", &roles, &more).await.code, 201);
}

#[tokio::test]
async fn roles_and_bindings_are_validated_as_upstream() {
    let server = server().await;
    for (path, object, said) in [
        (
            "namespaces/default/roles",
            json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["get"], "nonResourceURLs": ["/x"]}]}),
            "Role.rbac.authorization.k8s.io \"r\" is invalid: rules[0].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
        ),
        (
            "clusterroles",
            json!({"metadata": {"name": "r"}, "rules": [{"verbs": ["get"], "resources": ["x"]}]}),
            "ClusterRole.rbac.authorization.k8s.io \"r\" is invalid: rules[0].apiGroups: Required value: resource rules must supply at least one api group",
        ),
        (
            "clusterrolebindings",
            binding("b", "Role", "x", json!({"kind": "User", "name": "u"})),
            "ClusterRoleBinding.rbac.authorization.k8s.io \"b\" is invalid: roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\"",
        ),
        (
            "clusterrolebindings",
            binding("b", "ClusterRole", "x", json!({"kind": "ServiceAccount", "name": "u"})),
            "ClusterRoleBinding.rbac.authorization.k8s.io \"b\" is invalid: subjects[0].namespace: Required value",
        ),
    ] {
        let refused = send(&server, "POST", &format!("{RBAC}/{path}"), &object).await;
        assert_eq!((refused.code, refused.body["message"].as_str().unwrap()), (422, said));
    }
    must(
        &server,
        "clusterrolebindings",
        &binding("b", "ClusterRole", "view", json!({"kind": "User", "name": "u"})),
    )
    .await;
    let other = binding("b", "ClusterRole", "edit", json!({"kind": "User", "name": "u"}));
    let refused = send(&server, "PUT", &format!("{RBAC}/clusterrolebindings/b"), &other).await;
    assert!(refused.body["message"].as_str().unwrap().ends_with("cannot change roleRef"), "{}", refused.body);
}

#[tokio::test]
async fn the_default_policy_comes_back_at_the_next_start() {
    let store = Arc::new(MemoryObjectStore::new());
    let open = || ApiServer::open(store.clone(), Options::default());
    let server = open().await.unwrap();
    let discovery = format!("{RBAC}/clusterrolebindings/system:discovery");
    let basic = format!("{RBAC}/clusterroles/system:basic-user");
    let patch =
        |path: &str, patch: Value| request("PATCH", path, "application/merge-patch+json", patch.to_string());
    server.respond(&admin(), patch(&discovery, json!({"subjects": []}))).await;
    let annotations =
        json!({"metadata": {"annotations": {"rbac.authorization.kubernetes.io/autoupdate": "false"}}});
    server.respond(&admin(), patch(&basic, annotations)).await;
    server.respond(&admin(), patch(&basic, json!({"rules": []}))).await;
    send(&server, "DELETE", &format!("{RBAC}/clusterroles/view"), &Value::Null).await;
    let server = open().await.unwrap();
    let get = async |path: &str| send(&server, "GET", path, &Value::Null).await.body;
    assert_eq!(get(&discovery).await["subjects"][0]["name"], "system:authenticated");
    assert_eq!(get(&basic).await["rules"], json!([]));
    assert!(get(&format!("{RBAC}/clusterroles/view")).await["aggregationRule"].is_object());
    let list = get(&format!("{RBAC}/clusterroles")).await;
    assert!(list["items"].as_array().unwrap().len() > 60);
}

#[tokio::test]
async fn reviews_answer_what_requests_would_get() {
    let server = server().await;
    must(&server, "namespaces/default/roles", &role("readers", &["list"], &["pods"], &[])).await;
    let subject = json!({"kind": "Group", "name": "devs"});
    must(&server, "namespaces/default/rolebindings", &binding("b", "Role", "readers", subject)).await;
    let reviews = "/apis/authorization.k8s.io/v1";
    let attributes = json!({"verb": "list", "resource": "pods", "namespace": "default"});
    let asked = json!({"spec": {"user": "jane", "groups": ["devs"], "resourceAttributes": attributes}});
    let answer = send(&server, "POST", &format!("{reviews}/subjectaccessreviews"), &asked).await;
    assert_eq!(
        answer.body["status"],
        json!({"allowed": true,
        "reason": "RBAC: allowed by RoleBinding \"b/default\" of Role \"readers\" to Group \"devs\""})
    );
    let local = format!("{reviews}/namespaces/default/localsubjectaccessreviews");
    assert_eq!(send(&server, "POST", &local, &asked).await.body["status"]["allowed"], true);
    let mut elsewhere = asked.clone();
    elsewhere["spec"]["resourceAttributes"]["namespace"] = "kube-system".into();
    assert_eq!(send(&server, "POST", &local, &elsewhere).await.code, 422);
    let path =
        json!({"spec": {"user": "jane", "nonResourceAttributes": {"verb": "get", "path": "/metrics"}}});
    let answer = send(&server, "POST", &format!("{reviews}/subjectaccessreviews"), &path).await;
    assert_eq!(answer.body["status"], json!({"allowed": false}));
    let nobody = json!({"spec": {"resourceAttributes": attributes}});
    assert_eq!(send(&server, "POST", &format!("{reviews}/subjectaccessreviews"), &nobody).await.code, 422);
    let rules = json!({"spec": {"namespace": "default"}});
    let jane = user("jane", &["devs"]);
    let answer = ask(&server, &jane, "POST", &format!("{reviews}/selfsubjectrulesreviews"), &rules).await;
    let found = answer.body["status"]["resourceRules"].as_array().unwrap();
    assert!(
        found.iter().any(|rule| rule["resources"] == json!(["pods"]) && rule["verbs"] == json!(["list"]))
    );
    assert_eq!(answer.body["status"]["incomplete"], false);
}

#[tokio::test]
async fn impersonation_is_checked_part_by_part() {
    let server = server().await;
    let rules = json!({"metadata": {"name": "actor"}, "rules": [
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["users"], "resourceNames": ["bob"]},
        {"verbs": ["impersonate"], "apiGroups": [""], "resources": ["groups"], "resourceNames": ["devs"]}]});
    must(&server, "clusterroles", &rules).await;
    must(
        &server,
        "clusterrolebindings",
        &binding("actor", "ClusterRole", "actor", json!({"kind": "User", "name": "jane"})),
    )
    .await;
    let acting = async |headers: &[(&'static str, &str)]| {
        let path = "/apis/authentication.k8s.io/v1/selfsubjectreviews";
        let mut request = request("POST", path, "application/json", "{}");
        for (name, value) in headers {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        read(server.respond(&user("jane", &[]), request).await).await
    };
    let as_bob = acting(&[("impersonate-user", "bob"), ("impersonate-group", "devs")]).await;
    let info = &as_bob.body["status"]["userInfo"];
    assert_eq!(
        (&info["username"], &info["groups"]),
        (&json!("bob"), &json!(["devs", "system:authenticated"]))
    );
    for headers in [
        [("impersonate-user", "root"), ("impersonate-group", "devs")],
        [("impersonate-user", "bob"), ("impersonate-group", "system:masters")],
        [("impersonate-user", "bob"), ("impersonate-uid", "1")],
        [("impersonate-user", "bob"), ("impersonate-extra-a", "1")],
    ] {
        let refused = acting(&headers).await;
        assert_eq!(refused.code, 403, "{headers:?}");
        assert!(
            refused.body["message"].as_str().unwrap().contains("cannot impersonate resource"),
            "{}",
            refused.body
        );
    }
}

#[tokio::test]
async fn kubectl_makes_and_asks_for_rights() {
    let Some(cluster) = Cluster::start().await else { return };
    for (line, said) in [
        (
            "create role r --verb=get,list --resource=pods,pods/log",
            "role.rbac.authorization.k8s.io/r created\n",
        ),
        (
            "create rolebinding rb --role=r --user=jane --serviceaccount=default:robot",
            "rolebinding.rbac.authorization.k8s.io/rb created\n",
        ),
        (
            "create clusterrole cr --verb=get --non-resource-url=/metrics",
            "clusterrole.rbac.authorization.k8s.io/cr created\n",
        ),
        (
            "create clusterrolebinding crb --clusterrole=cr --group=devs",
            "clusterrolebinding.rbac.authorization.k8s.io/crb created\n",
        ),
        ("auth can-i list pods --as jane", "yes\n"),
        ("auth can-i get pods --subresource=log --as system:serviceaccount:default:robot", "yes\n"),
        ("auth can-i get /metrics --as bob --as-group devs", "yes\n"),
        ("auth can-i * *", "yes\n"),
    ] {
        assert_eq!(cluster.run(line).await, said, "{line}");
    }
    let refused = cluster.output("auth can-i delete pods --as jane").await;
    assert_eq!((String::from_utf8_lossy(&refused.stdout).as_ref(), refused.status.code()), ("no\n", Some(1)));
    let denied = cluster.fail("get secrets --as jane").await;
    assert_eq!(
        denied,
        "Error from server (Forbidden): secrets is forbidden: User \"jane\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\"\n"
    );
    assert!(cluster.run("get pods --as jane -o name").await.is_empty());
    let rights = cluster.run("auth can-i --list --as jane").await;
    assert!(
        rights.contains("pods/log") && rights.contains("selfsubjectreviews.authentication.k8s.io"),
        "{rights}"
    );
    let who = cluster.run("auth whoami --as jane --as-group devs").await;
    assert!(who.contains("jane") && who.contains("[devs system:authenticated]"), "{who}");
    let wide = cluster.run("get rolebinding rb -o wide").await;
    assert!(wide.contains("Role/r") && wide.contains("default/robot") && wide.contains("jane"), "{wide}");
    assert!(cluster.run("describe clusterrole cluster-admin").await.contains("*.*"));
    let manifest = "apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: {name: cr}
rules:
- {apiGroups: [''], resources: [nodes], verbs: [get]}
";
    let reconciled = cluster.feed("auth reconcile -f -", manifest).await;
    let said = String::from_utf8_lossy(&reconciled.stdout).into_owned();
    assert!(said.contains("clusterrole.rbac.authorization.k8s.io/cr reconciled"), "{said}");
    let rules = cluster.run("get clusterrole cr -o jsonpath={.rules}").await;
    assert!(rules.contains("/metrics") && rules.contains("nodes"), "{rules}");
}

#[tokio::test]
async fn requests_of_nobody_cannot_write() {
    let server = server().await;
    for (method, path) in [
        ("POST", "/api/v1/namespaces/default/pods"),
        ("DELETE", "/api/v1/namespaces/default"),
        ("PATCH", "/api/v1/nodes/x"),
        ("PUT", "/api/v1/nodes/x/status"),
    ] {
        let request = request(method, path, "application/json", Body::from("{}"));
        let answer = server.respond(&User::anonymous(), request).await;
        assert_eq!(read(answer).await.code, 403, "{method} {path}");
    }
}
