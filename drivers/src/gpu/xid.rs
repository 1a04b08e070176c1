//! NVIDIA's Xid error codes in words.
//!
//! Source: NVIDIA, "Xid Errors" (docs.nvidia.com/deploy/xid-errors). In our own
//! words, with what to do where one thing is to be done.

/// What an Xid code means; a code not listed is to be looked up by its number.
pub fn xid_text(code: u64) -> &'static str {
    match code {
        8 => "the GPU stopped processing",
        13 => "a program's graphics or compute engine made an exception",
        31 => "a program touched GPU memory that is not its own (page fault)",
        32 => "the commands of a program were corrupt",
        38 => "the driver's firmware failed",
        43 => "a program's channel was reset; the GPU goes on",
        44 => "a context switch failed",
        45 => "a program was ended while it used the GPU",
        46 => "the GPU stopped processing",
        48 => "uncorrectable memory error (double-bit ECC); reset the GPU",
        54 => "auxiliary power is not connected; check the cables",
        56 | 57 => "the display engine or its frame buffer failed",
        61 | 62 => "the GPU's internal microcontroller halted; reset the GPU",
        63 => "a memory page was retired or a row remapped; takes effect after a reset",
        64 => "a memory page or row could not be recorded as bad; exchange the board",
        68 => "the video engine failed",
        69 => "a program's graphics engine made a class error",
        74 => "NVLink error; check the link's other end, bridge or switch",
        79 => "the GPU fell off the bus; check power, slot and temperature, then power-cycle",
        92 => "many corrected memory errors in a short time",
        94 => "uncorrectable memory error, contained to one program",
        95 => "uncorrectable memory error, not contained; reset the GPU",
        109 => "a context switch timed out",
        110 => "security fault; reset the GPU",
        119 => "the GPU's system processor (GSP) did not answer; reset the GPU",
        120 => "the GPU's system processor (GSP) failed; reset the GPU",
        121 => "corrected error of the chip-to-chip link",
        122 => "the inforom could not be written",
        123 => "the power management unit did not answer; reset the GPU",
        140 => "an unrecovered memory error; reset the GPU",
        143 => "the GPU did not initialise",
        144..=150 => "NVLink error; look into the log for which link",
        154 => "the driver says what recovery the GPU needs; look into the log",
        _ => "not described here; look it up in NVIDIA's list of Xid errors",
    }
}
