//! RabbitMQ's management API (`autoscale.api_url`): its login, alarms, and quorum queues that have lost members.

use futures_util::future::join_all;
use reqwest::{Client, StatusCode};
use serde::Deserialize;

use super::{
    finding::{Finding, Status, in_time, is_at_least},
    rabbit::LEAST_VERSION,
};
use crate::{
    config::{Config, SecretUrl},
    error::chain_of,
};

const CHECK: &str = "autoscale.api_url";

#[derive(Deserialize)]
struct Overview {
    #[serde(default)]
    rabbitmq_version: String,
}

#[derive(Deserialize)]
struct QueueMembers {
    name: String,
    #[serde(default)]
    members: Vec<String>,
    #[serde(default)]
    online: Vec<String>,
}

pub async fn check(config: &Config, http: &Client) -> Vec<Finding> {
    let Some(apis) = &config.autoscale.api_url else {
        return vec![Finding::ok(
            CHECK,
            "is not set: alarms and members of the queues are not checked",
        )];
    };
    let apis: Vec<SecretUrl> = apis.expose().into_iter().map(SecretUrl::new).collect();
    let mut findings = join_all(apis.iter().map(|api| overview(http, api))).await;
    // Every node knows the state of all of them.
    let answers = apis.iter().zip(&findings);
    let answering = answers.filter(|(_, finding)| finding.status == Status::Ok);
    if let Some((api, _)) = { answering }.next() {
        let (alarms, members) = tokio::join!(alarms(http, api), members(config, http, api));
        findings.push(alarms);
        findings.extend(members);
    }
    findings
}

async fn overview(http: &Client, api: &SecretUrl) -> Finding {
    let overview = match in_time(get(http, api, "overview")).await {
        Ok(overview) => overview,
        Err(error) => {
            let advice = "check address, user and password; the user needs the tag monitoring";
            return Finding::problem(CHECK, format!("{api}: {error}"), advice);
        }
    };
    let version = serde_json::from_str::<Overview>(&overview);
    let version = version.map_or_else(|_| String::new(), |overview| overview.rabbitmq_version);
    if is_at_least(&version, LEAST_VERSION) {
        Finding::ok(CHECK, format!("{api}: RabbitMQ {version}"))
    } else {
        let advice = "it must end in /api, and RabbitMQ must be 3.10 or newer";
        Finding::problem(CHECK, format!("{api}: version {version:?}"), advice)
    }
}

async fn alarms(http: &Client, api: &SecretUrl) -> Finding {
    let check = "RabbitMQ alarms";
    match get(http, api, "health/checks/alarms").await {
        Ok(_) => Finding::ok(check, "there are none"),
        Err(error) if error.starts_with("503") => Finding::problem(
            check,
            "a node has a memory or disk alarm: all publishers are blocked, sends are `busy`",
            "free disk or memory there; `rabbitmq-diagnostics alarms` names the node",
        ),
        Err(error) => Finding::warning(
            check,
            error,
            "check them with `rabbitmq-diagnostics alarms`",
        ),
    }
}

/// The queues of this deployment: those without all of their members, and those that no worker consumes.
async fn members(config: &Config, http: &Client, api: &SecretUrl) -> Vec<Finding> {
    let check = "queue members";
    let columns = "queues?columns=name,members,online";
    let read = get(http, api, columns).await;
    let queues = read.and_then(|text| {
        serde_json::from_str::<Vec<QueueMembers>>(&text).map_err(|error| error.to_string())
    });
    let queues = match queues {
        Ok(queues) => queues,
        Err(error) => {
            let advice = "check them with `rabbitmq-queues quorum_status`";
            return vec![Finding::warning(check, error, advice)];
        }
    };
    let prefix = &config.queue.prefix;
    let mut findings = vec![judge(check, prefix, &queues)];
    findings.extend(unused(config.queue.partitions, prefix, &queues));
    findings
}

/// Queues of partitions that do not exist with `queue.partitions`.
fn unused(partitions: u16, prefix: &str, queues: &[QueueMembers]) -> Option<Finding> {
    let prefix = format!("{prefix}.p.");
    let number = |queue: &QueueMembers| queue.name.strip_prefix(&prefix)?.parse::<u32>().ok();
    let largest = queues.iter().filter_map(number).max()?;
    (largest >= u32::from(partitions)).then(|| {
        Finding::warning(
            "queue.partitions",
            format!("is {partitions}, but there is a queue {prefix}{largest}, which no worker with this setting consumes"),
            "use the same number on every node; delete the queue if it is empty and no node has the larger number",
        )
    })
}

fn judge(check: &'static str, prefix: &str, queues: &[QueueMembers]) -> Finding {
    let prefix = format!("{prefix}.");
    let (mut all, mut least) = (0, usize::MAX);
    let (mut short, mut lost) = (Vec::new(), Vec::new());
    for queue in queues
        .iter()
        .filter(|queue| queue.name.starts_with(&prefix))
    {
        let (members, online) = (queue.members.len(), queue.online.len());
        all += 1;
        least = least.min(members);
        if online * 2 <= members {
            lost.push(queue.name.as_str());
        } else if online < members {
            short.push(queue.name.as_str());
        }
    }
    let advice = "start the missing nodes; `rabbitmq-queues quorum_status QUEUE` names them";
    match (lost.as_slice(), short.as_slice()) {
        ([], []) if all == 0 => Finding::ok(check, "there are no queues yet"),
        ([], []) => Finding::ok(
            check,
            format!("{all} queues, each with all of its members ({least} or more)"),
        ),
        ([], short) => {
            let text = format!(
                "{} of {all} queues miss members, such as {}",
                short.len(),
                short[0]
            );
            Finding::warning(check, text, advice)
        }
        (lost, _) => {
            let text = format!(
                "{} of {all} queues have no majority, such as {}",
                lost.len(),
                lost[0]
            );
            Finding::problem(check, text, advice)
        }
    }
}

/// The body of a successful answer. Errors begin with the status and have no password.
async fn get(http: &Client, api: &SecretUrl, path: &str) -> Result<String, String> {
    // The client takes user and password out of the URL, and sends them as basic authentication.
    let url = format!("{}/{path}", api.expose().trim_end_matches('/'));
    let answer = http.get(url).send().await;
    let answer = answer.map_err(|error| chain_of(&error.without_url()))?;
    match answer.status() {
        StatusCode::OK => answer
            .text()
            .await
            .map_err(|error| chain_of(&error.without_url())),
        StatusCode::UNAUTHORIZED => Err("401: the user or the password is wrong".to_owned()),
        status => Err(status.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Status;
    use super::*;

    #[test]
    fn queues_without_a_majority_are_a_problem() {
        let queue = |name: &str, online: usize| QueueMembers {
            name: name.to_owned(),
            members: ["a", "b", "c"].map(str::to_owned).to_vec(),
            online: ["a", "b", "c"][..online]
                .iter()
                .map(|s| (*s).to_owned())
                .collect(),
        };
        let status = |queues: &[QueueMembers]| judge("queue members", "chat", queues).status;
        assert_eq!(status(&[]), Status::Ok);
        assert_eq!(
            status(&[queue("chat.p.0", 3), queue("other.p.0", 1)]),
            Status::Ok
        );
        assert_eq!(
            status(&[queue("chat.p.0", 3), queue("chat.p.1", 2)]),
            Status::Warning
        );
        assert_eq!(
            status(&[queue("chat.p.0", 2), queue("chat.p.1", 1)]),
            Status::Problem
        );
        let queues = [
            queue("chat.p.7", 3),
            queue("chat.dead", 3),
            queue("other.p.9", 3),
        ];
        assert!(unused(8, "chat", &queues).is_none());
        let found = unused(7, "chat", &queues).map(|finding| finding.status);
        assert_eq!(found, Some(Status::Warning));
    }

    #[test]
    fn user_and_password_are_decoded_and_leave_the_url() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let request = Client::new().get("http://user:a%40b%2Fc%@broker.example/api/overview");
        let request = request.build().unwrap();
        assert_eq!(request.url().as_str(), "http://broker.example/api/overview");
        let expected = Client::new()
            .get("http://broker.example")
            .basic_auth("user", Some("a@b/c%"))
            .build()
            .unwrap();
        assert_eq!(
            request.headers()["authorization"],
            expected.headers()["authorization"]
        );
    }
}
