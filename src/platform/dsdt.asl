/* SPDX-License-Identifier: MIT */
/*
 * The board as ACPI names it: host bridge, serial port, power button. scripts/make-dsdt compiles
 * this into dsdt.h; acpi.c then fills in the three address ranges whose numbers here are marks.
 */
DefinitionBlock ("", "DSDT", 2, "VIZOR ", "VIZOR   ", 1)
{
    Name (\_S5, Package () { 5, 0, 0, 0 })

    Scope (\_SB)
    {
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A08"))
            Name (_CID, EisaId ("PNP0A03"))
            Name (_UID, 0)
            Name (_SEG, 0)
            Name (_BBN, 0)
            Name (_CRS, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode,
                    0, 0, 0, 0, 1)
                IO (Decode16, 0x0CF8, 0x0CF8, 1, 8)
                /* MMIO32 */
                QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable,
                    ReadWrite, 0, 0x5A01000000000000, 0x5A01FFFFFFFFFFFF, 0,
                    0x0001000000000000)
                /* MMIO64 */
                QWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable,
                    ReadWrite, 0, 0x5A02000000000000, 0x5A02FFFFFFFFFFFF, 0,
                    0x0001000000000000)
            })

            /* Grant what the OS asks for, but SHPC hot-plug: there is no controller to fight over. */
            Method (_OSC, 4, NotSerialized)
            {
                CreateDWordField (Arg3, 0, STAT)
                If (LEqual (Arg0, ToUUID ("33DB4D5B-1FF7-401C-9657-7441C03DD766")))
                {
                    CreateDWordField (Arg3, 8, CTRL)
                    And (CTRL, 0x1D, Local0)
                    If (LNotEqual (Local0, CTRL))
                    {
                        Or (STAT, 0x10, STAT)
                        Store (Local0, CTRL)
                    }
                    If (LNotEqual (Arg1, 1))
                    {
                        Or (STAT, 0x08, STAT)
                    }
                }
                Else
                {
                    Or (STAT, 0x04, STAT)
                }
                Return (Arg3)
            }
        }

        /* PCI configuration space, so that the OS believes the MCFG table. */
        Device (ECAM)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                QWordMemory (ResourceConsumer, PosDecode, MinFixed, MaxFixed, NonCacheable,
                    ReadWrite, 0, 0x5A03000000000000, 0x5A03FFFFFFFFFFFF, 0,
                    0x0001000000000000)
            })
        }

        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x03F8, 0x03F8, 1, 8)
                Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 4 }
            })
        }

        Device (PWRB)
        {
            Name (_HID, EisaId ("PNP0C0C"))
            Name (_UID, 0)
        }

        /* Hardware-reduced platforms report events here (ACPI 6.5 section 5.6.9). */
        Device (GED)
        {
            Name (_HID, "ACPI0013")
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                Interrupt (ResourceConsumer, Level, ActiveHigh, Exclusive) { 9 }
            })
            OperationRegion (EVRG, SystemIO, 0x0603, 1)
            Field (EVRG, ByteAcc, NoLock, Preserve)
            {
                EVNT, 8
            }
            Method (_EVT, 1, Serialized)
            {
                Store (EVNT, Local0)
                If (And (Local0, 0x01))
                {
                    Notify (\_SB.PWRB, 0x80)
                }
            }
        }
    }
}
