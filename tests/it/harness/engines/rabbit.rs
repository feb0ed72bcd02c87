//! A RabbitMQ cluster: nodes with an Erlang name server (epmd) of their own, which can be killed, frozen, stopped,
//! started again and cut off from each other.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::net::TcpStream;

use super::{
    connections_to,
    server::{Account, Launch, Server, find},
    until_ready,
};
use crate::{harness::deployment::Directory, support::free_ports};

const COOKIE: &str = "CHATTESTCOOKIE";
/// The cookie of a node that is cut off.
const CUT: &str = "CUT";
const EPMD_WITHIN: Duration = Duration::from_secs(10);
/// Erlang listens on loopback only, with one scheduler that does not spin: a node needs little of the machine. The others
/// notice after 15 s (at most 19) that a node is frozen. Until then RabbitMQ keeps the consumers that are connected to it.
const FRUGAL: &str = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none \
    -kernel inet_dist_use_interface {127,0,0,1} -kernel net_ticktime 15";

/// Evaluates Erlang on a node. Its arguments are the node and the expressions.
const EVALUATE: &str = r#"
    [Node, Code] = init:get_plain_arguments(),
    {ok, Tokens, _} = erl_scan:string(Code),
    {ok, Expressions} = erl_parse:parse_exprs(Tokens),
    case rpc:call(list_to_atom(Node), erl_eval, exprs, [Expressions, []], 20000) of
        {value, Value, _} -> io:format("~0p~n", [Value]), halt(0);
        Other -> io:format("~0p~n", [Other]), halt(1)
    end.
"#;

/// The modes of partition handling are described in RabbitMQ's "Clustering and Network Partitions".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionHandling {
    /// A node that sees only a minority stops serving until the partition has ended.
    PauseMinority,
    /// RabbitMQ's default: a node in a minority keeps its clients, and its quorum queues confirm nothing.
    Ignore,
}

pub struct RabbitMq {
    nodes: Vec<Node>,
    first_port: u16,
    erl: PathBuf,
    // Dropped after the nodes.
    _epmd: Server,
    dir: Directory,
}

struct Node {
    /// `chat20010@localhost`
    name: String,
    port: u16,
    launch: Launch,
    server: Option<Server>,
}

impl RabbitMq {
    /// A cluster of this many nodes whose minorities pause. Takes about fifteen seconds.
    pub async fn start(nodes: u16) -> RabbitMq {
        RabbitMq::start_with(nodes, PartitionHandling::PauseMinority).await
    }

    pub async fn start_with(nodes: u16, handling: PartitionHandling) -> RabbitMq {
        let dir = Directory::new();
        let account = Account::of("rabbitmq");
        // Debian's program in PATH is a wrapper that changes directory and user.
        let places = [PathBuf::from("/usr/lib/rabbitmq/bin")];
        let program = find("rabbitmq-server", &places, "rabbitmq-server");
        let erl = find("erl", &[], "rabbitmq-server");
        // The name server's port, and of each node the ports of AMQP and of Erlang.
        let first_port = free_ports(1 + 2 * nodes);
        let epmd = start_epmd(first_port, &account, dir.path()).await;
        let port = |i: u16| first_port + 1 + 2 * i;
        let names: Vec<String> = (0..nodes).map(|i| node_name(port(i))).collect();
        let nodes = (0..nodes).map(|i| Node {
            name: names[usize::from(i)].clone(),
            port: port(i),
            launch: Launch {
                name: format!("rabbitmq {i}"),
                account: account.clone(),
                program: program.clone(),
                args: Vec::new(),
                env: environment(
                    &dir.path().join(format!("rabbitmq-{i}")),
                    first_port,
                    port(i),
                ),
                dir: dir.path().join(format!("rabbitmq-{i}")),
            },
            server: None,
        });
        let mut cluster = RabbitMq {
            nodes: nodes.collect(),
            first_port,
            erl,
            _epmd: epmd,
            dir,
        };
        for node in &cluster.nodes {
            write_files(&account, node, &names, handling);
        }
        // The others find the first node and join it.
        cluster.restart(0);
        cluster.until_serving(0).await;
        (1..names.len()).for_each(|i| cluster.restart(i));
        for i in 1..names.len() {
            cluster.until_serving(i).await;
        }
        cluster.until_joined().await;
        cluster
    }

    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    pub fn port(&self, i: usize) -> u16 {
        self.nodes[i].port
    }

    /// The URL of one node.
    pub fn url(&self, i: usize) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}/%2f", self.nodes[i].port)
    }

    /// The URLs of all nodes, as `queue.url` takes them.
    pub fn urls(&self) -> String {
        let urls: Vec<String> = (0..self.len()).map(|i| self.url(i)).collect();
        urls.join(",")
    }

    /// Open AMQP connections to a node.
    pub fn connections(&self, i: usize) -> usize {
        connections_to(self.nodes[i].port)
    }

    /// The node with the most AMQP connections.
    pub fn busiest(&self) -> usize {
        let nodes = 0..self.len();
        nodes.max_by_key(|i| self.connections(*i)).expect("a node")
    }

    pub fn kill9(&mut self, i: usize) {
        if let Some(mut server) = self.nodes[i].server.take() {
            server.kill9();
        }
    }

    pub fn freeze(&self, i: usize) {
        self.server(i).freeze();
    }

    pub fn thaw(&self, i: usize) {
        self.server(i).thaw();
    }

    fn server(&self, i: usize) -> &Server {
        self.nodes[i].server.as_ref().expect("the node runs")
    }

    /// Stops a node in order, as an upgrade does.
    pub async fn stop(&mut self, i: usize) {
        let mut server = self.nodes[i].server.take().expect("the node runs");
        server.signal(rustix::process::Signal::TERM);
        server.ended().await;
    }

    /// Starts a node that is not running, without waiting.
    pub fn restart(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        assert!(node.server.is_none(), "{} runs already", node.launch.name);
        node.server = Some(node.launch.start());
    }

    /// Waits until a node accepts AMQP connections.
    pub async fn until_serving(&mut self, i: usize) {
        let Node { port, server, .. } = &mut self.nodes[i];
        let server = server.as_mut().expect("the node runs");
        until_ready(&format!("rabbitmq {i} serves"), async || {
            let connected = TcpStream::connect(("127.0.0.1", *port)).await;
            connected.map(drop).map_err(|error| server.not_ready(error))
        })
        .await;
    }

    /// Waits until every node sees all others.
    pub async fn until_joined(&self) {
        // 3.10 has another name for the function.
        const RUNNING: &str =
            "length(case erlang:function_exported(rabbit_nodes, list_running, 0) of
            true -> rabbit_nodes:list_running(); false -> rabbit_nodes:all_running() end).";
        let count = self.len().to_string();
        until_ready("the nodes form a cluster", async || {
            for node in 0..self.len() {
                let seen = self.eval(node, RUNNING).await?;
                if seen != count {
                    return Err(format!("node {node} sees {seen}"));
                }
            }
            Ok(())
        })
        .await;
    }

    /// Waits until every quorum queue has a leader, and all of its other members follow it.
    pub async fn until_replicated(&self) {
        const CODE: &str = "
            States = fun({R, _}, Nodes) -> lists:sort([rpc:call(N, ets, lookup_element,
                [ra_state, R, 2], 5000) || N <- Nodes]) end,
            Queues = [{amqqueue:get_pid(Q), maps:get(nodes, amqqueue:get_type_state(Q))}
                || Q <- rabbit_amqqueue:list(), amqqueue:get_type(Q) =:= rabbit_quorum_queue],
            [{R, S} || {{R, _} = P, Nodes} <- Queues, begin S = States(P, Nodes),
                S =/= [follower || _ <- tl(Nodes)] ++ [leader] end].";
        let node = self.running_node();
        until_ready("the quorum queues have all members", async || {
            match self.eval(node, CODE).await?.as_str() {
                "[]" => Ok(()),
                incomplete => Err(incomplete.to_owned()),
            }
        })
        .await;
    }

    /// The node that leads a quorum queue.
    pub async fn leader(&self, queue: &str) -> usize {
        let code = format!(
            "{{ok, Q}} = rabbit_amqqueue:lookup(rabbit_misc:r(<<\"/\">>, queue, <<\"{queue}\">>)),
            {{R, _}} = amqqueue:get_pid(Q),
            [N || N <- maps:get(nodes, amqqueue:get_type_state(Q)),
                rpc:call(N, ets, lookup_element, [ra_state, R, 2], 5000) =:= leader]."
        );
        let node = self.running_node();
        until_ready(&format!("{queue} has a leader"), async || {
            let said = self.eval(node, &code).await?;
            let mut nodes = self.nodes.iter();
            let found = nodes.position(|node| said == format!("[{}]", node.name));
            found.ok_or(said)
        })
        .await
    }

    fn running_node(&self) -> usize {
        let mut nodes = self.nodes.iter();
        let running = nodes.position(|node| node.server.is_some());
        running.expect("a node runs")
    }

    /// Cuts a node off from the others: it drops their connections, and connections are refused in both directions,
    /// because it has another cookie for the others than they have for it. Its clients stay connected.
    pub async fn cut_off(&self, i: usize) {
        self.set_cookie_of_others(i, CUT).await;
    }

    /// Waits until a node that was cut off has paused. Its clients are disconnected first and its database (Mnesia) is
    /// stopped last; if the partition ends before that, the node takes part in it with tables that differ.
    pub async fn until_paused(&self, i: usize) {
        until_ready(&format!("rabbitmq {i} pauses"), async || {
            let database = self.eval(i, "whereis(mnesia_sup).").await?;
            let is_stopped = database == "undefined";
            is_stopped
                .then_some(())
                .ok_or("its database runs".to_owned())
        })
        .await;
    }

    /// Ends [`RabbitMq::cut_off`]. A node that had paused starts to serve again by itself.
    pub async fn reconnect(&self, i: usize) {
        self.set_cookie_of_others(i, COOKIE).await;
        let others = self.others(i).join(",");
        let code = format!("[net_kernel:connect_node(N) || N <- [{others}]].");
        self.eval(i, &code).await.expect("the node answers");
    }

    async fn set_cookie_of_others(&self, i: usize, cookie: &str) {
        let code = set_cookie(cookie, &self.others(i));
        self.eval(i, &code).await.expect("the node answers");
    }

    fn others(&self, i: usize) -> Vec<String> {
        let nodes = self.nodes.iter().enumerate();
        let others = nodes.filter(|(other, _)| *other != i);
        others.map(|(_, node)| node.name.clone()).collect()
    }

    /// Evaluates Erlang on a node, as `rabbitmqctl eval` does, but in a fifth of the time.
    ///
    /// # Errors
    /// Erlang's error, if the node does not answer or the code fails.
    pub async fn eval(&self, i: usize, code: &str) -> Result<String, String> {
        let node = &self.nodes[i];
        let launch = Launch {
            name: format!("erl on {}", node.launch.name),
            account: node.launch.account.clone(),
            program: self.erl.clone(),
            args: ["-noinput", "-hidden", "-start_epmd", "false", "-sname"]
                .into_iter()
                .chain([unique_name().as_str(), "-setcookie", COOKIE])
                .chain(FRUGAL.split(' '))
                .chain(["-eval", EVALUATE, "-extra", &node.name, code])
                .map(str::to_owned)
                .collect(),
            env: vec![
                ("HOME".to_owned(), self.dir.path().display().to_string()),
                ("ERL_EPMD_PORT".to_owned(), self.first_port.to_string()),
            ],
            dir: node.launch.dir.clone(),
        };
        launch.run().await
    }
}

fn node_name(port: u16) -> String {
    format!("chat{port}@localhost")
}

/// Changes the cookie for these nodes, and drops their connections if it is a wrong one.
fn set_cookie(cookie: &str, nodes: &[String]) -> String {
    let nodes = nodes.join(",");
    format!(
        "[begin erlang:set_cookie(N, '{cookie}'),
            '{cookie}' =:= '{COOKIE}' orelse erlang:disconnect_node(N) end || N <- [{nodes}]]."
    )
}

/// The name of a node that evaluates; two at once need different ones.
fn unique_name() -> String {
    format!("eval{}@localhost", uuid::Uuid::new_v4().simple())
}

async fn start_epmd(port: u16, account: &Account, dir: &Path) -> Server {
    let home = dir.join("epmd");
    account.make_dir(&home);
    let launch = Launch {
        name: "epmd".to_owned(),
        account: account.clone(),
        program: find("epmd", &[], "rabbitmq-server"),
        args: ["-port", &port.to_string(), "-address", "127.0.0.1"]
            .map(str::to_owned)
            .to_vec(),
        env: Vec::new(),
        dir: home,
    };
    let mut server = launch.start();
    let ready = until_ready("epmd", async || {
        let connected = TcpStream::connect(("127.0.0.1", port)).await;
        connected.map(drop).map_err(|error| server.not_ready(error))
    });
    let ready = tokio::time::timeout(EPMD_WITHIN, ready).await;
    ready.expect("epmd answers");
    server
}

fn environment(base: &Path, epmd: u16, port: u16) -> Vec<(String, String)> {
    let file = |name: &str| base.join(name).display().to_string();
    [
        ("HOME", base.display().to_string()),
        ("RABBITMQ_NODENAME", node_name(port)),
        ("RABBITMQ_CONF_ENV_FILE", file("rabbitmq-env.conf")),
        ("RABBITMQ_CONFIG_FILE", file("rabbitmq.conf")),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", file("advanced.config")),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", file("enabled_plugins")),
        ("RABBITMQ_MNESIA_BASE", file("mnesia")),
        ("RABBITMQ_LOG_BASE", file("log")),
        ("RABBITMQ_FEATURE_FLAGS_FILE", file("feature_flags")),
        ("RABBITMQ_DIST_PORT", (port + 1).to_string()),
        ("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", FRUGAL.to_owned()),
        ("RABBITMQ_LOGS", "-".to_owned()),
        ("ERL_EPMD_PORT", epmd.to_string()),
        ("ERL_EPMD_ADDRESS", "127.0.0.1".to_owned()),
        // Makes the start script become the server instead of supervising it.
        ("RUNNING_UNDER_SYSTEMD", "true".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .to_vec()
}

fn write_files(account: &Account, node: &Node, names: &[String], handling: PartitionHandling) {
    let base = &node.launch.dir;
    account.make_dir(base);
    account.make_dir(&base.join("mnesia"));
    account.make_dir(&base.join("log"));
    let handling = match handling {
        PartitionHandling::PauseMinority => "pause_minority",
        PartitionHandling::Ignore => "ignore",
    };
    let mut settings = format!(
        "listeners.tcp.local = 127.0.0.1:{}\nvm_memory_high_watermark.absolute = 400MB\n\
         disk_free_limit.absolute = 50MB\nlog.console.level = warning\n\
         cluster_partition_handling = {handling}\nqueue_leader_locator = balanced\n\
         cluster_formation.peer_discovery_backend = classic_config\n",
        node.port
    );
    for (i, name) in names.iter().enumerate() {
        settings += &format!(
            "cluster_formation.classic_config.nodes.{} = {name}\n",
            i + 1
        );
    }
    account.write(&base.join("rabbitmq.conf"), &settings);
    account.write(&base.join("enabled_plugins"), "[].\n");
    account.write(&base.join("rabbitmq-env.conf"), "");
    let cookie = base.join(".erlang.cookie");
    account.write(&cookie, COOKIE);
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o400);
    std::fs::set_permissions(&cookie, private).expect("the cookie can be made private");
}
