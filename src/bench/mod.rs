//! Load, what it costs, and the judgement of it. The judge is pure and serves the fault tests as well: it knows no
//! socket.

pub mod bare;
mod client;
pub mod fanout;
pub mod history;
pub mod judge;
pub mod load;
pub mod scaling;
pub mod storm;
mod wire;

/// A whole HTML page around `body`, which is trusted.
fn page(title: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\"><meta name=\"color-scheme\" content=\"light dark\">\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}}\
         td{{padding:.1rem 1.5rem .1rem 0}}svg{{margin:1rem 0}}</style></head>\n<body><h1>{title}</h1>{body}</body></html>\n"
    )
}
