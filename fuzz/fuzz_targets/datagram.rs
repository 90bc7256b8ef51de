//! A UDP payload is parsed: any bytes give a message that lies within them, or an error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use ringspan::wire::message::{DATA_OVERHEAD, Message};

fuzz_target!(|datagram: &[u8]| {
    let length = datagram.len();
    match Message::parse(datagram) {
        Ok(Message::Initiation(_)) => assert_eq!(length, 148),
        Ok(Message::Response(_)) => assert_eq!(length, 92),
        Ok(Message::CookieReply(_)) => assert_eq!(length, 64),
        Ok(Message::Data(data)) => {
            assert_eq!(data.ciphertext.len() + 16, length);
            assert!(length >= DATA_OVERHEAD);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
