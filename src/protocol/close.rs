//! The close codes of sockets: one list of codes, reasons and meanings, from which the table in the AsyncAPI specification is
//! made.

macro_rules! close_codes {
    ($($variant:ident $code:literal $reason:literal: $meaning:literal;)*) => {
        /// Close codes (RFC 6455 section 7.4; 4000–4999 are for applications). 4000–4499 mean "do not reconnect until
        /// something changes", except 4008 and 4009.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Close {
            $(#[doc = $meaning] $variant,)*
        }

        impl Close {
            pub fn code(self) -> u16 {
                match self {
                    $(Close::$variant => $code,)*
                }
            }

            pub fn reason(self) -> &'static str {
                match self {
                    $(Close::$variant => $reason,)*
                }
            }
        }

        /// Codes and meanings.
        pub(super) const CLOSE_CODES: &[(Close, &str)] = &[$((Close::$variant, $meaning),)*];
    };
}

close_codes! {
    Bye 1001 "bye":
        "The client sent disconnect.";
    Protocol 1002 "not the WebSocket protocol":
        "A frame violates RFC 6455. Do not reconnect before the client is fixed.";
    Unsupported 1003 "binary frames are not used here":
        "A binary frame; only text is supported. Do not reconnect before the client is fixed.";
    NotUtf8 1007 "text frames are UTF-8":
        "A text frame is not UTF-8. Do not reconnect before the client is fixed.";
    TooBig 1009 "frame too large":
        "A frame exceeds edge.max_frame_bytes.";
    Restarting 1012 "restarting":
        "The edge restarts. Reconnect and resume after the delay in the reason: {\"retryAfterMs\": …}.";
    Unauthorized 4001 "unauthorized":
        "Credentials are missing or invalid, or the login has ended. Do not reconnect without new ones.";
    Forbidden 4003 "forbidden":
        "The user lacks the right. Do not reconnect.";
    Slow 4008 "slow reader":
        "The client read too slowly: more than edge.send_queue_bytes were waiting, or nothing was read for edge.write_timeout. Reconnect and resume.";
    Idle 4009 "no pong":
        "The client did not answer pings. Reconnect and resume.";
    RateLimited 4029 "rate limited":
        "The client kept exceeding the rate limit, or the user has too many open sockets. Do not reconnect at once.";
    Malformed 4400 "malformed":
        "Input is not JSON or does not follow this specification. Do not reconnect before the client is fixed.";
}
